import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from jobs.__main__ import NO_VERBS
from jobs.command import Verb, _help_lines, main
from pipeline.errors import CorpusError
from pipeline.settings.config import Config
from pipeline.settings.reading.config_file import dump_yaml, load_config

ROOT = Path(__file__).parent.parent.parent
VERBS = sorted({path.stem for path in (ROOT / "jobs").glob("*.py")} - NO_VERBS)
OWN_ARGUMENTS = {"convert", "submit"}
"""Files in, files out; and a verb around another one."""


def verb(execute) -> Verb:
    return Verb("Help text.", ("run",), lambda config: {"name": config.run.name}, execute)


def test_it_hands_over_the_resolved_settings():
    seen = []
    assert main(verb(lambda config, console: seen.append((config, console))), ["run.name=x"]) == 0
    config, console = seen[0]
    assert config.run.name == "x"
    assert isinstance(console, Console)


def test_settings_that_a_verb_does_not_read_are_told(capsys):
    given = ["train.steps=5", "run.name=x", "optim={lr: 0.1}", "corpus={lowercase: true}"]
    looks = verb(lambda *_: None)._replace(groups=("run", "train.shards", "corpus.lowercase"))
    assert main(looks, given) == 0
    assert capsys.readouterr().err == "note: no effect here: train.steps, optim\n"
    assert main(looks._replace(groups=("run", "train", "optim", "corpus")), given) == 0
    assert not capsys.readouterr().err


def test_a_file_that_the_system_refuses_is_an_error_without_a_traceback(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(verb(lambda *_: (tmp_path / "file" / "report.html").write_text("")), []) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: [Errno 20] Not a directory:")
    assert "report.html" in error


def test_options_may_stand_among_the_settings():
    seen = []
    given = ["run.name=x", "--dry-run", "run.seed=7"]
    look = verb(lambda config, _: None)._replace(plan=lambda config: seen.append(config.run) or {})
    assert main(look, given) == 0
    assert (seen[0].name, seen[0].seed) == ("x", 7)


def test_a_second_file_of_settings_is_refused(tmp_path, capsys):
    """The first one was left out without a word."""
    for name in ("a", "b"):
        (tmp_path / name).write_text("run: {seed: 3}\n")
    given = ["--config", str(tmp_path / "a"), "run.seed=4", "--config", str(tmp_path / "b")]
    with pytest.raises(SystemExit, match="2"):
        main(verb(lambda *_: None), given)
    assert "argument --config: give one file; one with `base: OTHER`" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_in_the_background_can_be_stopped(number, capsys):
    before = [signal.signal(each, signal.SIG_IGN) for each in (signal.SIGINT, signal.SIGTERM)]
    try:
        assert main(verb(lambda *_: signal.raise_signal(number)), []) == 130
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])
    assert capsys.readouterr().err.startswith("stopped: ")


def test_runs_that_follow_each_other_are_all_checked_before_the_first(tmp_path, capsys):
    for name, rate in (("one", 0.1), ("two", 0.2), ("wrong", 0)):
        (tmp_path / f"{name}.yaml").write_text(f"run: {{name: {name}}}\noptim: {{lr: {rate}}}\n")
    done = []
    both = verb(lambda config, _: done.append((config.run.name, config.optim.clip)))
    both = both._replace(groups=("run", "train", "optim"))
    files = [str(tmp_path / f"{name}.yaml") for name in ("one", "two", "wrong")]
    assert main(both, ["--config", files[0], "--then", files[1], "optim.clip=3"]) == 0
    assert done == [("one", 3), ("two", 3)]
    assert main(both, ["--config", files[0], "--then", files[2]]) == 2
    assert len(done) == 2


def test_only_verbs_that_start_runs_take_others_that_follow(tmp_path, capsys):
    (tmp_path / "two.yaml").write_text("run: {name: two}\n")
    with pytest.raises(SystemExit, match="2"):
        main(verb(lambda *_: None), ["--then", str(tmp_path / "two.yaml")])
    assert "unrecognized arguments: --then" in capsys.readouterr().err


def test_a_run_that_the_runs_before_it_make_impossible_is_refused_before_the_first(
    tmp_path, capsys
):
    done, files = [], [str(tmp_path / f"{name}.yaml") for name in ("small", "large")]
    start = f"{tmp_path}/runs/small/export"
    Path(files[0]).write_text("run: {name: small}\n")
    Path(files[1]).write_text(f"run: {{name: large}}\ntrain: {{init_from: {start}}}\n")
    trains = verb(lambda config, _: done.append(config.run.name))._replace(groups=("run", "train"))
    both = ["--config", files[0], "--then", files[1]]
    assert main(trains, [*both, f"run.storage={tmp_path}/runs"]) == 0
    assert done == ["small", "large"]
    assert main(trains, [*both, f"run.storage={tmp_path}/other"]) == 2
    assert f"{start}: no such folder, and the runs before it do not make" in capsys.readouterr().err
    assert main(trains, [*both, f"run.storage={tmp_path}/runs", "run.name=x"]) == 2
    assert f"{tmp_path}/runs/x: two runs would have this folder" in capsys.readouterr().err
    Path(start).mkdir(parents=True)
    assert main(trains, [*both, f"run.storage={tmp_path}/other"]) == 0
    assert done == ["small", "large"] * 2


def test_a_dry_run_shows_settings_and_plan_and_does_nothing(capsys):
    def execute(config, console):
        raise AssertionError("it did something")

    assert main(verb(execute), ["--dry-run", "run.name=abc"]) == 0
    shown = capsys.readouterr().out
    assert "name: abc" in shown
    assert "nothing was changed" in shown


@pytest.mark.parametrize("name", ["2026-11-26", "7", "off"])
def test_a_folder_stands_for_a_run_whatever_its_name_is(tmp_path, name):
    seen = []
    takes_run = verb(lambda config, _: seen.append((config.run.storage, config.run.name)))
    folder = tmp_path / "runs: 模型"
    assert main(takes_run._replace(takes_run=True), [str(folder / name)]) == 0
    assert seen == [(str(folder), name)]


def test_several_folders_are_not_one_run(capsys):
    assert main(verb(lambda *_: None)._replace(takes_run=True), ["a", "b"]) == 2
    assert "a, b: one run at a time" in capsys.readouterr().err


def test_an_error_of_the_user_is_one_message_and_status_2(capsys):
    def execute(config, console):
        raise CorpusError("a.txt: empty; give a file with text")

    assert main(verb(execute), []) == 2
    assert capsys.readouterr().err == "error: a.txt: empty; give a file with text\n"


def test_wrong_settings_are_status_2(capsys):
    assert main(verb(lambda *_: None), ["run.nam=x"]) == 2
    assert "did you mean run.name?" in capsys.readouterr().err


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_its_parts_and_no_name_of_the_standard_library(name):
    module = importlib.import_module(f"jobs.{name}")
    if name in OWN_ARGUMENTS:
        assert callable(module.main)
    else:
        assert module.VERB.help
    assert name not in sys.stdlib_module_names


def test_the_package_itself_lists_the_verbs():
    command = [sys.executable, "-m", "jobs"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [line.split()[0] for line in listed.splitlines()[1:]] == VERBS
    assert subprocess.run([*command, "pretrain"], cwd=ROOT, capture_output=True).returncode == 2


@pytest.mark.parametrize("name", sorted({*VERBS} - OWN_ARGUMENTS))
def test_a_dry_run_shows_the_settings_of_the_verb_as_a_file_would_have_them(name, tmp_path):
    groups = importlib.import_module(f"jobs.{name}").VERB.groups
    (tmp_path / "shown.yaml").write_text(dump_yaml(Config(), groups), "utf-8")
    assert load_config(tmp_path / "shown.yaml") == Config()
    shown = yaml.safe_load((tmp_path / "shown.yaml").read_text("utf-8"))
    assert {*shown} == {each.partition(".")[0] for each in groups}


def test_defaults_stand_in_the_help_as_arguments_take_them():
    shown = _help_lines("optim") + _help_lines("train.phases") + _help_lines("engine.compile")
    given = [line.split(": ")[0].strip().replace(" = ", "=") for line in shown]
    assert {"optim.decay=null", "train.phases=[]", "engine.compile=false"} < {*given}
    assert load_config(None, [text.replace("'", "") for text in given]) == Config()


def test_help_lists_the_settings():
    command = [sys.executable, "-m", "jobs.pretrain", "--help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "usage: python -m jobs.pretrain" in shown
    assert "optim.lr = 0.00018: Peak learning rate" in shown


def test_a_reader_that_ends_ends_no_command(tmp_path):
    """Ctrl-C ends `tee` too, and then the command ended without a checkpoint."""
    code = (
        "import sys; from jobs.output.console import plain_console, print_error; sys.stdin.read()\n"
        "for _ in range(3): plain_console().print('a'); print_error('b')\n"
        "open(sys.argv[1], 'w')"
    )
    given = [sys.executable, "-c", code, tmp_path / "done"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(given, cwd=ROOT, **pipes)
    process.stdout.close()
    process.stdin.close()
    assert process.wait() == 0
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize("encoding", ["ascii", "gbk"])
def test_a_terminal_that_lacks_characters_shows_the_others(encoding):
    """A run ended in a UnicodeEncodeError at the first line that drew a box or a mark."""
    command = [sys.executable, "-c", "from jobs.command import *; plain_console().print('── ✓ a')"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONIOENCODING": encoding}, capture_output=True
    )
    assert done.stdout.decode(encoding).endswith(r" \u2713 a" + "\n"), done.stderr


@pytest.mark.parametrize("name", sorted({*VERBS} - OWN_ARGUMENTS))
def test_help_lists_settings_that_exist(name):
    for group in importlib.import_module(f"jobs.{name}").VERB.groups:
        assert all(line.startswith(f"  {group}") for line in _help_lines(group))
