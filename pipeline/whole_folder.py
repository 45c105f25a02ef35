"""A folder that appears whole or not at all."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder, which takes the place of `folder` when the block ends without an error.

    Its name is `.NAME.` and random letters: two processes that make the same folder, also one that
    is cut off from the cluster but alive, do not write into each other's. A process that is killed
    leaves it behind.
    """
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:12]}")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
