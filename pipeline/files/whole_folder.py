"""A folder that appears whole or not at all."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.files.named_errors import named


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder, which takes the place of `folder` when the block ends without an error.

    Its name is `.NAME.`, random letters and `.new`: two processes that make the same folder, also
    one that is cut off from the cluster but alive, do not write into each other's. A process that
    is killed leaves it behind. Who may read the folder may read its files.
    """
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:12]}.new")
    temporary.mkdir(parents=True)
    old = temporary.with_suffix(".old")
    try:
        with named(folder):
            yield temporary
        _open_files(temporary)
        with suppress(FileNotFoundError):
            folder.rename(old)  # to delete it takes longer, and a kill would leave half of it
        temporary.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _open_files(folder: Path) -> None:
    """Give the files the rights of the folder: safetensors writes them for their owner alone."""
    rights = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        mode = path.stat().st_mode
        if mode & rights != rights:
            path.chmod(mode | rights)
