"""Arrays in files, on local disks and in object stores."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.text.listing import is_local
from pipeline.files.storage import filesystem, write_whole


def write_arrays(path: str, **arrays: NDArray[Any]) -> None:
    """Write named arrays to an uncompressed .npz file, completely or not at all."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_whole(path, buffer.getbuffer())  # type: ignore[arg-type]


def read_arrays(path: str, *names: str) -> list[NDArray[Any]]:
    """Read some of the arrays of an .npz file, without the others."""
    system, inner = filesystem(path)
    with system.open(inner, "rb") as file, np.load(file) as arrays:
        return [arrays[name] for name in names]


def write_array(path: str, values: NDArray[Any]) -> None:
    """Write an array as a .npy file, completely or not at all."""
    buffer = io.BytesIO()
    np.save(buffer, values)
    write_whole(path, buffer.getvalue())


def map_array(path: str) -> NDArray[Any]:
    """The array of a .npy file; a local file is mapped, and so is shared by all processes."""
    system, inner = filesystem(path)
    if is_local(system):
        # Not "r", which maps files that others may write to: some mounts (FUSE, 9p) refuse that.
        return np.load(inner, mmap_mode="c")
    return np.load(io.BytesIO(system.cat_file(inner)))
