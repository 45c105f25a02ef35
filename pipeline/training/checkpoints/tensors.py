"""The tensor files of a checkpoint: one for each rank, with the parts of parameters that it holds.

`rank_00003.safetensors` holds one-dimensional fp32 tensors named `KIND/PARAMETER/START`: elements
of a parameter from START on, where KIND is `weights`, `exp_avg` or `exp_avg_sq`. The metadata has
the shapes of the whole parameters. Together the files hold every element once, so a rank reads what
it needs from them, whatever layout they were written with.
"""

import json
import math
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pipeline.errors import CheckpointError

KINDS = ("weights", "exp_avg", "exp_avg_sq")
"""Master weights, and the keys of LAMB's moments in its state."""
BLOCK = 1 << 22
"""Bytes that are hashed and written at a time, while they are in the processor's cache."""


def file_of(rank: int) -> str:
    """Name of the file that a rank writes."""
    return f"rank_{rank:05d}.safetensors"


def name_of(kind: str, parameter: str, start: int) -> str:
    """Name of a part of a parameter in a file."""
    return f"{kind}/{parameter}/{start}"


def write(file: Path, parts: Mapping[str, Tensor], shapes: Mapping[str, list[int]]) -> str:
    """Write a safetensors file and wait until it is on the disk.

    Args:
        parts: contiguous fp32 tensors on the CPU, by their names.
        shapes: shapes of the whole parameters, by name.

    Returns:
        the XXH3-128 of what was written.

    Raises:
        OSError: the storage refused it.
    """
    header: dict[str, Any] = {"__metadata__": {"shapes": json.dumps(shapes)}}
    end = 0
    for name, part in parts.items():
        start, end = end, end + part.nbytes
        header[name] = {"dtype": "F32", "shape": list(part.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # aligns the tensors
    digest = xxhash.xxh3_128()
    with file.open("wb") as output:
        for data in (len(text).to_bytes(8, "little") + text, *map(_bytes, parts.values())):
            view = memoryview(data)
            for start in range(0, len(view), BLOCK):
                block = view[start : start + BLOCK]
                digest.update(block)
                output.write(block)
        output.flush()
        os.fsync(output.fileno())
    return digest.hexdigest()


class Parameters:
    """Reads parameters from the files of all ranks, which stay memory-mapped until it is closed.

    Raises:
        CheckpointError: there are no files, one is unreadable, or elements are missing.
    """

    def __init__(self, checkpoint: Path) -> None:
        self._checkpoint = checkpoint
        self._files = ExitStack()
        self._parts: dict[tuple[str, str], dict[int, Any]] = {}
        self.shapes: dict[str, list[int]] = {}
        """Shapes of all parameters, by their Hugging Face names."""
        for path in files_in(checkpoint):
            try:
                file = self._files.enter_context(safe_open(path, framework="pt"))
                self.shapes |= json.loads(file.metadata()["shapes"])
                for key in file.keys():  # noqa: SIM118
                    kind, name, start = key.split("/")
                    self._parts.setdefault((kind, name), {})[int(start)] = file.get_slice(key)
            except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
                raise CheckpointError(f"{path} is unreadable: {error}") from None
        if not self._parts:
            raise CheckpointError(
                f"{checkpoint} has no file {file_of(0)}; it is no checkpoint of this version"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._parts.clear()
        self._files.close()

    def read(self, kind: str, name: str, start: int = 0, length: int | None = None) -> Tensor:
        """Elements of a flattened parameter, in fp32. [length], by default all from `start`."""
        length = math.prod(self.shapes[name]) - start if length is None else length
        read = torch.empty(length)
        filled = 0
        for first, part in self._parts.get((kind, name), {}).items():
            (size,) = part.get_shape()
            low, high = max(start, first), min(start + length, first + size)
            if low < high:
                read[low - start : high - start] = part[low - first : high - first]
                filled += high - low
        if filled != length:
            raise CheckpointError(
                f"{self._checkpoint}: {length - filled} of {length} elements of {kind} of {name} "
                "are in no file; take another checkpoint"
            )
        return read


def files_in(checkpoint: Path) -> list[Path]:
    """The tensor files of a checkpoint, by rank."""
    return sorted(checkpoint.glob("rank_*.safetensors"))


def _bytes(part: Tensor) -> Any:
    """The memory of a tensor, byte by byte."""
    return part.view(torch.uint8).numpy()
