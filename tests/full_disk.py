"""A limit on the size of files, which writes meet as they meet a full disk."""

import resource
from contextlib import contextmanager


@contextmanager
def largest_file(size: int):
    """In the block, this process writes no file of more bytes: `File too large`."""
    limit = resource.RLIMIT_FSIZE
    soft, hard = resource.getrlimit(limit)
    resource.setrlimit(limit, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(limit, (soft, hard))
