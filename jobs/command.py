"""The command line of all verbs: `python -m jobs.VERB --config F [a.b=c …] [--dry-run]`."""

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel
from rich.console import Console

from jobs.output.console import plain_console, print_error
from jobs.output.tables import table
from pipeline.cpu import ENVIRONMENT
from pipeline.errors import ConfigError, NezhaError, raise_all
from pipeline.files.urls import is_url
from pipeline.paths import RunPaths
from pipeline.runs import run_in_store
from pipeline.runs.named_model import is_there
from pipeline.settings.config import Config
from pipeline.settings.reading.config_file import dump_yaml, load_config

# Progress bars and notices of libraries would hide our output; errors are raised in any case. The
# libraries read these variables when they are imported, which a verb does after this module.
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ |= ENVIRONMENT | os.environ
logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
# DeepSpeed warns of a machine without a GPU, and resets its logger's level when it is imported.
logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)


RUN = ("run.storage", "run.name", "run.scratch")
"""Settings that say where a run is."""


class Verb(NamedTuple):
    """What a file in `jobs/` defines."""

    help: str
    """What the verb does, in one paragraph."""
    groups: tuple[str, ...]
    """Groups and single settings (`run`, `corpus.vocab`) that it reads: `--help` lists them, and
    others that are given on the command line are told to have no effect."""
    plan: Callable[[Config], Mapping[str, object]]
    """What it would do, for `--dry-run`; it checks the settings and changes nothing."""
    execute: Callable[[Config, Console], None]
    """Does it, and prints a summary on the console."""
    takes_run: bool = False
    """Whether the folder of a run may stand in place of `run.storage` and `run.name`."""
    reads_only: bool = False
    """Whether it may read a run while another command works on it."""


class OneFile(argparse.Action):
    """An option that is refused the second time; argparse would leave the first file out."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: str | None = None) -> None:
        if getattr(namespace, self.dest) is not None:
            message = "give one file; one with `base: OTHER` changes the settings of another"
            raise argparse.ArgumentError(self, message)
        setattr(namespace, self.dest, values)


def main(verb: Verb, arguments: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit status.

    0: done. 2: an error that the user can correct. 75: stopped as asked, with a checkpoint, and the
    same command goes on. 130: stopped at once by Ctrl-C or SIGTERM.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell lets commands behind `&` ignore SIGINT
        signal.signal(number, signal.default_int_handler)
    console = plain_console()
    try:
        chosen = _parser(verb).parse_intermixed_args(arguments)  # options may be among settings
        overrides = chosen.overrides
        if verb.takes_run:
            runs_given = [text for text in overrides if not is_setting(text)]
            if len(runs_given) > 1:
                raise ConfigError(f"{', '.join(runs_given)}: one run at a time")
            overrides = [given for text in overrides for given in _run_settings(text)]
        files = chosen.config, *chosen.then
        runs = [load_config(file, overrides) for file in files]
        _tell_unread(verb, overrides)
        if starts_runs(verb):
            _refuse_wrong_order(runs)
        with ExitStack() as folders:
            uploads: list[Callable[[], None]] = []
            for config in runs if reads(verb, "run.name") else ():
                if chosen.dry_run or verb.reads_only:
                    run_in_store.fetch(config)
                else:
                    held = run_in_store.hold(config, console.print)
                    uploads.append(folders.enter_context(held))
            plans = [verb.plan(config) for config in runs]  # refuses before the first one starts
            for config, plan, upload in zip_longest(runs, plans, uploads):
                if chosen.dry_run:
                    console.print(dump_yaml(config, verb.groups))
                    console.print(table("Dry run: nothing was changed. The verb would", plan))
                else:
                    verb.execute(config, console)
                    if upload:
                        upload()  # the next one may start from this run in its store
    except NezhaError as error:
        prefix = "error: " if error.exit_status == NezhaError.exit_status else ""
        print_error(f"{prefix}{error}")
        return error.exit_status
    except OSError as error:  # a file that this user may not read, a full disk
        print_error(f"error: {error}")
        return NezhaError.exit_status
    except KeyboardInterrupt as stop:
        reason = str(stop) or "the same command goes on from what is finished"
        print_error(f"stopped: {reason}")
        return 130
    return 0


def starts_runs(verb: Verb) -> bool:
    """Whether a verb starts runs, of which one may start from the one before it (`--then`)."""
    return reads(verb, "train.init_from") and not verb.reads_only


def _parser(verb: Verb) -> argparse.ArgumentParser:
    module = getattr(sys.modules["__main__"], "__spec__", None)
    parser = argparse.ArgumentParser(
        prog=f"python -m {module.name}" if module else None,
        description=verb.help,
        epilog=_settings_help(verb.groups),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", metavar="FILE", action=OneFile, help="YAML file of settings")
    parser.set_defaults(then=[])
    if starts_runs(verb):
        parser.add_argument(
            "--then",
            metavar="FILE",
            action="append",
            help="settings of a run that follows, with the same a.b=c; may be given again",
        )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="show its settings and what would be done; do nothing",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="RUN|a.b=c" if verb.takes_run else "a.b=c",
        help=("a run's folder, or " if verb.takes_run else "") + "a setting and its value",
    )
    return parser


def is_setting(argument: str) -> bool:
    """Whether an argument is `a.b=c`; a path may hold `=` too, behind a `/`."""
    key, equals, _ = argument.partition("=")
    return bool(equals) and "/" not in key


def _refuse_wrong_order(runs: Sequence[Config]) -> None:
    """Refuse runs that follow each other of which one would be refused after those before it.

    Raises:
        ConfigError: two have the same folder, or one starts from what is not there and what none
            before it makes. The first one is checked when it begins.
    """
    mistakes, made = [], list[Path]()
    for config in runs:
        paths, start = RunPaths.of(config), config.train.init_from
        there = is_there(start) or any(
            Path(start).resolve().is_relative_to(run.resolve()) for run in made
        )
        if paths.run in made:
            mistakes.append(
                f"{paths.run}: two runs would have this folder; give each file of settings a "
                "run.name of its own, and none behind the files"
            )
        elif made and not there and not paths.checkpoints.exists():
            mistakes.append(
                f"run {config.run.name}: train.init_from={config.train.init_from}: no such folder, "
                f"and the runs before it do not make it; theirs: {', '.join(map(str, made))}"
            )
        made.append(paths.run)
    raise_all(ConfigError, mistakes)


def _tell_unread(verb: Verb, overrides: Sequence[str]) -> None:
    """Tell which settings have no effect here; scripts give all verbs the same ones."""
    keys = [text.partition("=")[0] for text in overrides]
    if unread := [key for key in keys if not reads(verb, key)]:
        plain_console(stderr=True).print(f"note: no effect here: {', '.join(unread)}")


def reads(verb: Verb, key: str) -> bool:
    """Whether a verb reads a setting, or one of a group of settings."""
    pairs = ((f"{key}.", f"{name}.") for name in verb.groups)
    return any(given.startswith(name) or name.startswith(given) for given, name in pairs)


def _run_settings(argument: str) -> list[str]:
    """The settings that a run's folder stands for; a setting stays as it is."""
    if is_setting(argument):
        return [argument]
    if is_url(argument):
        storage, _, name = argument.rstrip("/").rpartition("/")
    else:
        folder = Path(argument).absolute()
        storage, name = str(folder.parent), folder.name
    # Quoted, because YAML reads some names as numbers or dates.
    quoted = (json.dumps(text, ensure_ascii=False) for text in (storage, name))
    return [f"run.{key}={text}" for key, text in zip(("storage", "name"), quoted, strict=True)]


def _settings_help(groups: Sequence[str]) -> str:
    lines = ["settings (key = default: what it does):"]
    for name in groups:
        lines.extend(_help_lines(name))
    return "\n".join(lines)


def _help_lines(name: str) -> list[str]:
    """A line for a setting; for a group, one for each setting in it."""
    *path, last = name.split(".")
    group: Any = Config()
    for part in path:
        group = getattr(group, part)
    value = getattr(group, last)
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return [line for field in fields for line in _help_lines(f"{name}.{field}")]
    description = type(group).model_fields[last].description
    return [f"  {name} = {_as_argument(value)}: {description}"]


def _as_argument(value: object) -> str:
    """A value as a.b=c takes it: null, true and [] in place of None, True and ()."""
    return repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
