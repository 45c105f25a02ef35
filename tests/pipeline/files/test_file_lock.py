"""A lock is held by one user at a time, on files and on folders."""

import fcntl
import os

import pytest

from pipeline.files.file_lock import file_lock


@pytest.mark.parametrize("name", ["", "made", "there"])
def test_nobody_else_gets_a_lock_that_is_held(tmp_path, name):
    (tmp_path / "there").write_text("kept")
    path = tmp_path / name
    with file_lock(path):
        other = os.open(path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)
    assert (tmp_path / "there").read_text() == "kept"
