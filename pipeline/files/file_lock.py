"""A lock on a path of a local disk, between the processes of a machine."""

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
"""What a file system answers that has no locks; the last one is NFS without its lock service."""


@contextmanager
def file_lock(path: Path, waiting: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Hold a lock on a folder, or on a file that is made if it is not there; wait for it.

    It ends with the block, or with the process. The block may remove the file. On a disk that knows
    no locks, as Lustre on demand, nothing is held.

    Args:
        waiting: is called if another process holds the lock, before it is waited for.
    """
    descriptor = None
    while descriptor is None:
        # NFS locks only files that are open for writing; folders can only be opened for reading.
        flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT
        try:
            descriptor = locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB, flags)
        except BlockingIOError:
            waiting()
            descriptor = locked(path, fcntl.LOCK_EX, flags)
    try:
        yield
    finally:
        os.close(descriptor)


def locked(path: Path, kind: int, flags: int = os.O_RDONLY) -> int | None:
    """A descriptor that holds a lock until it is closed; None if the path was removed meanwhile.

    Raises:
        BlockingIOError: another process holds it, and `kind` does not wait.
    """
    descriptor = os.open(path, flags, 0o666)
    try:
        try:
            fcntl.flock(descriptor, kind)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None
