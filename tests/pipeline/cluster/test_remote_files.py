"""Files of the command's node for `storage`, where they are not on this node."""

from functools import partial

import numpy as np
import pytest

from pipeline.cluster import remote_disk
from pipeline.cluster.remote_disk import offered
from pipeline.cluster.remote_files import files_of
from pipeline.corpus.dedup.array_files import map_array, write_array
from pipeline.files import storage
from pipeline.files.storage import filesystem, read_whole


def test_storage_finds_files_that_only_that_node_has(ray_cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(remote_disk, "may_have_other_nodes", lambda: True)
    folder = tmp_path / "there"
    with offered(folder, str(tmp_path / "scratch"), place="_work") as made:
        offer = made._replace(token="another disk has no such file")
        data = bytes(range(256)) * 10
        (folder / "text").write_bytes(data)
        with files_of(offer):
            system, inner = filesystem(f"{folder}/text")
            with system.open(inner, "rb", block_size=100) as file:
                file.seek(300)
                assert file.read(7) == data[300:307]
                assert file.read() == data[307:]
            with system.open(f"{folder}/other", "wb") as file:
                file.write(b"ab")
                file.write(b"c")
            storage.write_whole(f"{folder}/a/b/whole", b"new")
            assert read_whole(f"{folder}/a/b/whole") == b"new"
            assert system.isdir(str(folder / "a"))
            write_array(f"{folder}/numbers.npy", np.arange(3))
            monkeypatch.setattr(np, "load", partial(only_whole, of=np.load))
            assert map_array(f"{folder}/numbers.npy").tolist() == [0, 1, 2]
            assert {name.rpartition("/")[2] for name in system.find(str(folder))} >= {"whole"}
            system.rm_file(f"{folder}/a/b/whole")
            assert not system.exists(f"{folder}/a/b/whole")
            with pytest.raises(FileNotFoundError):
                read_whole(f"{folder}/a/b/whole")
            local, _ = filesystem(str(tmp_path))
            assert local is not system  # this node has the folder
        assert filesystem(f"{folder}/text")[0] is local
    assert (folder / "other").read_bytes() == b"abc"


def only_whole(file, of, mmap_mode=None):
    assert mmap_mode is None
    return of(file)
