"""A run starts from the checkpoint or the export that `train.init_from` names, wherever it is."""

import shutil

import pytest

from pipeline.errors import CheckpointError, StorageError
from pipeline.files.storage import filesystem
from pipeline.paths import RunPaths
from pipeline.settings.reading.config_file import load_config
from pipeline.stages.before import given
from pipeline.training.checkpoints import files
from pipeline.training.start.origin import NOTE, origin_at_start, origin_of
from tests import small_run
from tests.pipeline.training.checkpoints.test_files import make


def begin(run, start):
    return origin_at_start(load_config(None, [f"train.init_from={start}"]), run)


def test_a_run_that_begins_again_takes_what_it_began_with(tmp_path):
    """It took a newer checkpoint of the other run, if its first start had left none."""
    run, other, folder = (tmp_path / name for name in ("run", "other", "other/checkpoints"))
    run.mkdir()
    folder.mkdir(parents=True)
    first = make(folder, 2)
    assert begin(run, other) == first
    second = make(folder, 3)
    assert begin(run, other) == first
    assert begin(run, second) == second
    assert begin(run, other) == second
    files.remove(second)
    assert begin(run, other) == first
    (run / NOTE).write_text("[]")
    assert begin(run, other) == first


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A store in this process's memory; copies of it lie in a temporary folder of the test."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return f"memory://{tmp_path.name}/runs"


def put(folder, url):
    system, inner = filesystem(url)
    system.put(str(folder), inner, recursive=True)


def test_the_newest_complete_checkpoint_at_a_url_is_taken(tmp_path, store):
    run, folder = tmp_path / "run", tmp_path / "other/checkpoints"
    run.mkdir()
    folder.mkdir(parents=True)
    first, second = make(folder, 2), make(folder, 3)
    (second / files.COMPLETE).unlink()
    make(folder, 4).rename(folder / "damaged_checkpoint_000004")
    put(tmp_path / "other", f"{store}/other")
    start = begin(run, f"{store}/other/")
    assert start.is_relative_to(run)  # which all nodes see, or get from this one
    assert files.read_state(start)["step"] == 2
    files.verify(start)
    (second / files.COMPLETE).touch()
    put(second, f"{store}/other/checkpoints/{second.name}")
    assert begin(run, f"{store}/other/") == start
    other = load_config(None, [f"train.init_from={store}/other"])
    assert files.read_state(origin_of(other))["step"] == 3
    shutil.rmtree(start)  # as on another node
    assert files.read_state(begin(run, f"{store}/other/"))["step"] == 2
    assert first.exists()
    system, inner = filesystem(f"{store}/other/checkpoints/{first.name}")
    system.rm(inner, recursive=True)  # as the other run prunes it
    assert files.read_state(begin(run, f"{store}/other/"))["step"] == 3


def test_what_is_not_there_is_named(tmp_path, store):
    (tmp_path / "model/config.json").parent.mkdir()
    (tmp_path / "model/config.json").touch()
    config = load_config(None, [f"train.init_from={store}/none"])
    with pytest.raises(StorageError, match=f"{store}/none: there is nothing at this URL"):
        origin_of(config)
    put(tmp_path / "model", f"{store}/gone")
    gone = load_config(None, [f"train.init_from={store}/gone"])
    origin_of(gone)
    filesystem(store)[0].rm(filesystem(f"{store}/gone")[1], recursive=True)
    with pytest.raises(StorageError, match="gone: there is nothing at this URL"):
        origin_of(gone)  # it took the copy that was made before
    put_empty = f"{store}/begun/checkpoints/.tmp"
    filesystem(put_empty)[0].pipe_file(filesystem(put_empty)[1], b"")
    with pytest.raises(CheckpointError, match="begun: this run has no complete checkpoint"):
        origin_of(load_config(None, [f"train.init_from={store}/begun"]))


def test_a_run_at_a_url_gives_the_weights_that_its_folder_gives(tmp_path, store):
    first = small_run.settings(tmp_path, "first", "train.steps=6")
    small_run.fit(first)
    put(RunPaths.of(first).run, f"{store}/first")
    starts = {"near": RunPaths.of(first).run, "far": f"{store}/first"}
    runs = [
        small_run.settings(tmp_path, name, "train.steps=6", f"train.init_from={start}")
        for name, start in starts.items()
    ]
    for config in runs:
        given.check(config)
        small_run.fit(config)
    near, far = (small_run.weights(config, 6) for config in runs)
    assert near == far != small_run.weights(first, 6)
