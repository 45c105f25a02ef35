"""A run's folder on the disk of another node: files that are copied, and functions called there."""

import os
from functools import partial
from pathlib import Path

import pytest
import ray

from pipeline.cluster import remote_disk
from pipeline.cluster.remote_disk import (
    PIECE_BYTES,
    RemoteDisk,
    _remove_unused,
    disk_of,
    offered,
)
from pipeline.files.disk import OWN
from pipeline.files.hashing import short_hash


@pytest.fixture(autouse=True)
def other_nodes(monkeypatch):
    monkeypatch.setattr(remote_disk, "may_have_other_nodes", lambda: True)


@pytest.fixture
def disk(ray_cluster, tmp_path):
    """That of a process which does not see the folder: its token is gone."""
    with offered(tmp_path / "there" / "run", str(tmp_path / "scratch")) as offer:
        yield RemoteDisk(offer)


@pytest.fixture
def there(tmp_path):
    return tmp_path / "there" / "run"


def test_who_sees_the_folder_uses_it(ray_cluster, tmp_path):
    with offered(tmp_path / "run") as offer:
        disk = disk_of(offer)
        assert not disk.remote
        assert disk.fetch(tmp_path) == tmp_path
        assert disk.call(os.path.exists, tmp_path)
        assert disk_of(offer._replace(token="another disk has no such file")).remote
        assert not disk_of(offer._replace(token="gone with the command", caller=None)).remote
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize("size", [0, 5, PIECE_BYTES, 2 * PIECE_BYTES + 3])
def test_files_are_sent_and_fetched_whole(disk, there, size):
    data = os.urandom(size)
    own = disk.here / "checkpoints" / ".a.tmp" / "rank"
    own.parent.mkdir(parents=True)
    own.write_bytes(data)
    disk.send(own)
    assert not own.exists()
    folder = there / "checkpoints" / ".a.tmp"
    assert {each.name for each in folder.iterdir()} == {"rank"}
    assert (folder / "rank").read_bytes() == data
    assert disk.fetch(own.parent) == own.parent
    assert own.read_bytes() == data
    disk.drop(own.parent)
    assert not own.exists()
    assert (folder / "rank").exists()


def test_only_what_changed_is_fetched_again(disk, there, monkeypatch):
    (there / "shards").mkdir()
    (there / "shards" / "a").write_text("one")
    (there / "shards" / "b").write_text("two")
    copy = disk.fetch(disk.here / "shards")
    asked = []
    read = remote_disk._read
    monkeypatch.setattr(
        disk, "_submit", lambda f, *a, of=disk._submit: asked.append((f, *a)) or of(f, *a)
    )
    disk.fetch(copy)
    (there / "shards" / "b").write_text("other")
    disk.fetch(copy)
    assert {path for function, path, *_ in asked if function is read} == {there / "shards" / "b"}
    assert (copy / "b").read_text() == "other"


def test_other_paths_are_those_of_that_node(disk, tmp_path, monkeypatch):
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("北")
    assert disk.fetch(vocab) == vocab  # both nodes see it
    monkeypatch.setattr(disk, "sees", lambda path: False)
    copy = disk.fetch(vocab)
    assert copy.is_relative_to(disk.root)
    assert copy.read_text() == "北"
    disk.drop(vocab)
    assert vocab.exists()
    disk.drop(copy)
    assert not copy.exists()
    assert not disk.fetch(tmp_path / "none").exists()


def test_a_file_that_cannot_be_sent_leaves_nothing(disk, there, monkeypatch):
    own = disk.here / "checkpoints" / "rank"
    own.parent.mkdir()
    own.write_bytes(b"abc")
    monkeypatch.setattr(remote_disk, "_flush", full)
    with pytest.raises(OSError, match="No space left"):
        disk.send(own)
    assert list((there / "checkpoints").iterdir()) == []
    assert own.exists()


def full(path):
    raise OSError(28, "No space left on device")


def test_copies_that_nobody_uses_are_removed(disk, tmp_path):
    own = tmp_path / "scratch" / "of the user"
    own.mkdir()
    old, new = disk.root / "old", disk.root / "new"
    old.mkdir()
    new.mkdir()
    with offered(tmp_path / "other" / "run", str(tmp_path / "scratch")) as offer:
        long = RemoteDisk(offer)
        for folder in (old, own, long.here.parent, disk.here.parent):
            os.utime(folder, (0, 0))
        RemoteDisk(offer)
        assert new.exists()
        assert own.exists()
        assert long.here.exists()  # it still uses its copies, as does `disk`
        assert disk.here.exists()
        assert not old.exists()
        del long
    os.utime(disk.root / short_hash(offer.folder), (0, 0))
    _remove_unused(disk.root)
    assert {path.name for path in disk.root.iterdir()} == {"new", disk.here.parent.name}


def test_a_file_that_changes_while_it_is_copied_is_not_taken(disk, there, monkeypatch):
    (there / "file").write_bytes(b"short")
    monkeypatch.setattr(remote_disk, "_list", partial(longer, of=remote_disk._list))
    with pytest.raises(OSError, match="was changed while it was copied"):
        disk.fetch(disk.here / "file")
    assert not (disk.here / "file").exists()


def longer(path, of):
    return [(name, size + 1, modified) for name, size, modified in of(path)]


def test_paths_stand_for_those_of_that_node_in_calls(disk, there):
    assert disk.call(Path.exists, disk.here / "new") is False
    disk.call(Path.write_text, disk.here / "new", "text")
    assert (there / "new").read_text() == "text"
    assert disk.call(partial(Path.joinpath, disk.here), "new") == disk.here / "new"


def test_an_error_there_is_the_error_here(disk):
    with pytest.raises(FileNotFoundError):
        disk.call(Path.read_text, disk.here / "none")


def test_a_node_that_is_gone_is_a_silent_storage(disk):
    """So what is written waits and is tried again, as on any storage."""
    disk._actor = ray.remote(remote_disk._Caller).remote()
    ray.kill(disk._actor)
    with pytest.raises(OSError, match="the node of the command does not answer"):
        disk.call(os.getpid)


def test_the_folder_itself_is_nobodys_copy():
    assert OWN.fetch(Path("a")) == Path("a")
