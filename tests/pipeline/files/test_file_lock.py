"""A lock is held by one user at a time, on files and on folders."""

import errno
import fcntl
import os
import threading

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


def test_a_lock_whose_file_was_removed_under_its_holder_is_taken_again(tmp_path):
    """Else the next one would lock a file of the same name beside it."""
    path, waits, order = tmp_path / "lock", threading.Event(), []

    def wait_for_it():
        with file_lock(path, waits.set):
            order.append("second")
            with pytest.raises(BlockingIOError):
                fcntl.flock(os.open(path, os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)

    waiter = threading.Thread(target=wait_for_it)
    with file_lock(path):
        waiter.start()
        assert waits.wait(10)
        path.unlink()
        order.append("first")
    waiter.join(10)
    assert order == ["first", "second"]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_disk_without_locks_does_not_stop_the_work(tmp_path, monkeypatch, number):
    def fail(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fail)
    with file_lock(tmp_path / "lock"):
        pass
