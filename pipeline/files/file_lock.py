"""A lock on a path of a local disk, between the processes of a machine."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP)
"""What a file system answers that has no locks."""


@contextmanager
def file_lock(path: Path, waiting: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Hold a lock on a folder, or on a file that is made if it is not there; wait for it.

    It ends with the block, or with the process. The block may remove the file. On a disk that knows
    no locks, as Lustre on demand, nothing is held.

    Args:
        waiting: is called if another process holds the lock, before it is waited for.
    """
    descriptor = _locked(path, waiting)
    while not _is_at(descriptor, path):  # the one who held it has removed the file
        os.close(descriptor)
        descriptor = _locked(path, waiting)
    try:
        yield
    finally:
        os.close(descriptor)


def _locked(path: Path, waiting: Callable[[], object]) -> int:
    # NFS locks only files that are open for writing; folders can only be opened for reading.
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT
    descriptor = os.open(path, flags, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _is_at(descriptor: int, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False
