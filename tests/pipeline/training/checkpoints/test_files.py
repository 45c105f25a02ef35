"""Checkpoints are found, verified and deleted as whole folders."""

import errno
import json
import math
import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError

from pipeline.errors import CheckpointError
from pipeline.settings.config import Config
from pipeline.settings.reading.config_file import dump_yaml
from pipeline.training.checkpoints import files, tensors

TENSORS = tensors.file_of(0)


def make(folder, step, loss=1.0, **more):
    """A complete checkpoint with made-up contents."""
    temporary = folder / ".temporary"
    temporary.mkdir()
    state = json.dumps({"step": step, "heldout": {"mlm_loss": loss}, "engine": {"a": 1}, **more})
    path = folder / f"checkpoint_{step:06d}"
    texts = {files.STATE: state, files.CONFIG: dump_yaml(Config())}
    files.commit(temporary, path, texts, write_tensors(temporary))
    return path


def write_tensors(folder):
    """The tensor file of one rank, and its hash."""
    parts = {tensors.name_of("weights", "a", 0): torch.ones(2)}
    return {TENSORS: tensors.write(folder / TENSORS, parts, {"a": [2]})}


def test_it_reads_back_and_replaces_an_older_one(tmp_path):
    make(tmp_path, 3, loss=2.0)
    path = make(tmp_path, 3)
    assert [item.name for item in tmp_path.iterdir()] == [path.name]
    files.verify(path)
    assert files.read_state(path) == {"step": 3, "heldout": {"mlm_loss": 1.0}}
    assert files.read_counters(path) == {"a": 1}
    assert files.read_config(path) == Config()
    assert files.read_hashes(path).keys() == {TENSORS, files.STATE, files.CONFIG}


def test_damaged_and_incomplete_checkpoints_are_set_aside(tmp_path):
    older, path, incomplete = (make(tmp_path, step) for step in (2, 3, 7))
    (incomplete / files.COMPLETE).unlink()
    make(tmp_path, 9).rename(tmp_path / ".checkpoint_000009.tmp")
    (tmp_path / ".checkpoint_000010.tmp").touch()
    said: list[str] = []
    assert files.newest(tmp_path) == files.recover(tmp_path, said.append) == path
    file = path / TENSORS
    file.write_bytes(b"other")
    with pytest.raises(CheckpointError, match="damaged"):
        files.verify(path)
    assert files.recover(tmp_path, said.append) == older
    assert "incomplete" in said[0]
    assert f"{file} is damaged" in said[1]
    assert sorted(item.name for item in tmp_path.iterdir()) == [
        "checkpoint_000002",
        "damaged_checkpoint_000003",
        "damaged_checkpoint_000007",
    ]
    assert files.newest(tmp_path) == files.best(tmp_path) == older


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_anew(tmp_path):
    for step, hashes in ((2, "{"), (3, "{}")):
        (make(tmp_path, step) / files.HASHES).write_text(hashes)
    for _ in range(2):  # also when the damaged ones were set aside before
        with pytest.raises(CheckpointError, match=r"no checkpoint is usable \(damaged_"):
            files.recover(tmp_path, print)
    assert len(list(tmp_path.iterdir())) == 2
    assert files.recover(tmp_path / "nowhere", print) is None


@pytest.mark.parametrize("state", ["", "{}", "[]"])
def test_an_old_damaged_checkpoint_stops_nothing(tmp_path, caplog, state):
    old, path = make(tmp_path, 1, loss=0.1), make(tmp_path, 2)
    (old / files.STATE).write_text(state)
    assert files.best(tmp_path) == files.newest(tmp_path) == path
    assert f"{old / files.STATE} is unreadable" in caplog.text
    files.prune(tmp_path, 1)
    assert list(tmp_path.iterdir()) == [path]


def test_everything_is_on_the_disk_before_the_marker(tmp_path, monkeypatch):
    flushed: list[str] = []
    monkeypatch.setattr(files, "_flush", lambda path: flushed.append(path.name))
    make(tmp_path, 1)
    marker = flushed.index(files.COMPLETE)  # the tensor files were synced by those who wrote them
    assert {files.STATE, files.CONFIG, files.HASHES} == set(flushed[:marker])
    assert flushed[marker + 1 :] == [".temporary", tmp_path.name]


def test_settings_of_another_version_are_named(tmp_path):
    path = make(tmp_path, 1)
    (path / files.CONFIG).write_text("engine: {zero_stage: 0}")
    with pytest.raises(CheckpointError, match=r"engine\.zero_stage: must be 1, 2 or 3"):
        files.read_config(path)


def test_a_check_of_settings_that_came_later_keeps_no_run_from_going_on(tmp_path):
    path = make(tmp_path, 1)
    (path / files.CONFIG).write_text("plan: {mfu: 0.5}")
    with pytest.raises(ValidationError, match=r"plan\.mfu=0\.5 has no effect"):
        Config.model_validate({"plan": {"mfu": 0.5}})
    assert files.read_config(path).plan.mfu == 0.5


def names(folder):
    return sorted(int(item.name.removeprefix("checkpoint_")) for item in folder.iterdir())


def test_the_best_has_the_lowest_heldout_loss(tmp_path):
    for step, loss in ((1, 0.5), (2, math.nan), (3, 1.0), (4, 0.5), (5, 0.8)):
        make(tmp_path, step, loss)
    (tmp_path / "checkpoint_000004" / files.COMPLETE).unlink()
    assert files.best(tmp_path).name == "checkpoint_000001"
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        files.best(tmp_path / "nowhere")


def test_losses_on_two_held_out_sets_are_not_compared(tmp_path):
    """The lowest one was on a set that is easier than the one which is used now."""
    for step, loss, judged_on in ((1, 0.1, "easy"), (2, 0.8, "hard"), (3, 0.9, "hard")):
        make(tmp_path, step, loss, heldout_set=judged_on)
    assert files.best(tmp_path).name == "checkpoint_000002"
    files.prune(tmp_path, keep_last=1)
    assert names(tmp_path) == [2, 3]


@pytest.mark.parametrize(
    ("keep_last", "keep_every", "kept"),
    [(1, 0, [20, 60]), (2, 0, [20, 50, 60]), (1, 30, [20, 30, 60]), (9, 0, [10, 20, 30, 50, 60])],
)
def test_exactly_the_last_the_regular_and_the_best_are_kept(tmp_path, keep_last, keep_every, kept):
    for step in (10, 20, 30, 40, 50, 60):
        make(tmp_path, step, loss=0.1 if step == 20 else 1.0)
    # An incomplete one is not counted as one of the last, and is deleted.
    (tmp_path / "checkpoint_000040" / files.COMPLETE).unlink()
    files.prune(tmp_path, keep_last, keep_every)
    assert names(tmp_path) == kept


def test_an_old_one_that_cannot_be_deleted_stops_nothing(tmp_path, monkeypatch, caplog):
    """A protected one, or one with open files on NFS, ended the training and every later start."""

    def rmtree(path):
        raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path))

    older, path = make(tmp_path, 2), make(tmp_path, 3)
    with monkeypatch.context() as storage:
        storage.setattr(files.shutil, "rmtree", rmtree)
        files.prune(tmp_path, keep_last=1)
        assert f"{older} cannot be deleted: [Errno {errno.ENOTEMPTY}]" in caplog.text
        assert files.recover(tmp_path, print) == path
    assert files.recover(tmp_path, print) == path
    assert list(tmp_path.iterdir()) == [path]


def test_one_that_another_process_reads_is_not_deleted(tmp_path):
    paths = [make(tmp_path, step, loss=1 / step) for step in (1, 2, 3)]
    code = "import sys; from pathlib import Path; from pipeline.training.checkpoints import files\n"
    code += "with files.in_use(Path(sys.argv[1])): print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(paths[1])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:
        reader.stdout.readline()
        files.prune(tmp_path, 1)
        assert names(tmp_path) == [2, 3]
        files.verify(paths[1])
        reader.kill()
    files.prune(tmp_path, 1)
    assert names(tmp_path) == [3]


@pytest.mark.parametrize("name", [files.HASHES, files.COMPLETE, "folder"])
def test_a_commit_that_the_storage_interrupted_is_made_again_whole(tmp_path, monkeypatch, name):
    flush, failures = files._flush, [True]

    def fail_once(path):
        if failures and name in (path.name, "folder" if path == tmp_path else ""):
            failures.pop()
            raise OSError("no space left")
        flush(path)

    monkeypatch.setattr(files, "_flush", fail_once)
    with pytest.raises(OSError, match="no space"):
        make(tmp_path, 1)
    path, temporary = tmp_path / "checkpoint_000001", tmp_path / ".temporary"
    texts = {files.STATE: '{"step": 1, "engine": {}}', files.CONFIG: dump_yaml(Config())}
    hashes = {TENSORS: files.file_xxh3((temporary if temporary.exists() else path) / TENSORS)}
    files.commit(temporary, path, texts, hashes)
    files.verify(path)
    assert files.recover(tmp_path, print) == path


def test_a_storage_that_does_not_answer_damages_no_checkpoint(tmp_path, monkeypatch):
    path = make(tmp_path, 1)

    def fail(path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(files, "file_xxh3", fail)
    with pytest.raises(OSError, match="Input/output"):
        files.recover(tmp_path, print)
    assert list(tmp_path.iterdir()) == [path]
