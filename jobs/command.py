"""The command line that all verbs share: `python -m jobs.VERB --config F [a.b=c …] [--dry-run]`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from pipeline.errors import NezhaError
from pipeline.settings.config import Config
from pipeline.settings.config_file import dump_yaml, load_config

# Progress bars and notices of libraries would drown ours; what goes wrong is raised anyway. They
# read this when they are imported, which a verb does after this module.
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
# Threads that wait for each other sleep. By default they spin, which on cores that other processes
# use too holds up the threads that they wait for: measured as 0.6 steps a second against 8.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
# DeepSpeed warns of a machine without a GPU, and resets its logger's level when it is imported.
logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)


class Verb(NamedTuple):
    """What a file in `jobs/` defines."""

    help: str
    """What the verb does, in a paragraph."""
    groups: tuple[str, ...]
    """Setting groups that it reads; `--help` lists their fields."""
    plan: Callable[[Config], Mapping[str, object]]
    """What it would do, for `--dry-run`; checks the settings and touches nothing."""
    execute: Callable[[Config, Console], None]
    """Does it, and prints its summary on the console."""


def main(verb: Verb, arguments: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit status: 0 done, 2 for an error that is the user's to mend."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    parser = argparse.ArgumentParser(
        prog=f"python -m {module.name}" if module else None,
        description=verb.help,
        epilog=_settings_help(verb.groups),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file of settings")
    parser.add_argument("--dry-run", action="store_true", help="show settings and plan, do nothing")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="a setting and its value")
    chosen = parser.parse_args(arguments)
    console = Console(soft_wrap=True)
    try:
        config = load_config(chosen.config, chosen.overrides)
        plan = verb.plan(config)
        if chosen.dry_run:
            console.print(dump_yaml(config), markup=False, highlight=False)
            console.print(table("Dry run: nothing was touched. It would", plan))
        else:
            verb.execute(config, console)
    except NezhaError as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", style="red", markup=False)
        return 2
    return 0


def table(title: str, rows: Mapping[str, object]) -> Table:
    """A two-column table of names and values."""
    result = Table(title=title, title_justify="left", show_header=False)
    result.add_column()
    result.add_column(overflow="fold")  # a path that is cut is no use
    for name, value in rows.items():
        result.add_row(str(name), str(value))
    return result


def _settings_help(groups: Sequence[str]) -> str:
    lines = ["settings (key = default: what it is):"]
    for group in groups:
        lines.extend(_fields_help(group, getattr(Config(), group)))
    return "\n".join(lines)


def _fields_help(prefix: str, settings: BaseModel) -> list[str]:
    lines = []
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            lines.extend(_fields_help(f"{prefix}.{name}", value))
        else:
            lines.append(f"  {prefix}.{name} = {value!r}: {field.description or ''}")
    return lines
