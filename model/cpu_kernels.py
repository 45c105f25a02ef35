"""The functions of `cpu_kernels.c`, which installing this project compiles where it can.

Without them, as in an export, attention on CPUs takes plain operators of torch.
"""

import ctypes
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

LIBRARY = "nezha_cpu_kernels"
"""Not part of a package: jobs run in copies of this folder without what is compiled."""

DTYPES = (torch.float32, torch.bfloat16)


class Tile(ctypes.Structure):
    """What `Tile` is in `cpu_kernels.c`, where its fields are described."""

    _fields_ = (
        ("heads", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("keys", ctypes.c_int64),
        ("clip", ctypes.c_int64),
        ("stride", ctypes.c_int64),
        ("first_head", ctypes.c_int64),
        ("first_query", ctypes.c_int64),
        ("queries", ctypes.c_int64),
        ("offset", ctypes.c_int64),
        ("text_heads", ctypes.c_int64),
        ("mask", ctypes.c_void_p),
        ("mask_text", ctypes.c_int64),
        ("mask_head", ctypes.c_int64),
        ("mask_row", ctypes.c_int64),
        ("bfloat16", ctypes.c_int64),
        ("drop_below", ctypes.c_int64),
        ("seed", ctypes.c_uint64),
        ("scale", ctypes.c_float),
        ("keep_scale", ctypes.c_float),
    )


def _load() -> ctypes.CDLL | None:
    spec = find_spec(LIBRARY)
    if spec is None or spec.origin is None:
        return None
    try:
        library = ctypes.CDLL(spec.origin)
    except OSError:  # made for another system
        return None
    library.tile_bytes.restype = ctypes.c_int64
    pointer, tile = ctypes.c_void_p, ctypes.POINTER(Tile)
    library.attention_forward.argtypes = [tile, *[pointer] * 3, ctypes.c_int]
    library.attention_backward.argtypes = [tile, *[pointer] * 4, ctypes.c_int]
    # One that is older or newer than this file is of no use.
    return library if library.tile_bytes() == ctypes.sizeof(Tile) else None


_library: Any = _load()


def kernels_suit(x: Tensor) -> bool:
    """Whether there are kernels, and for numbers of this type."""
    return _library is not None and x.dtype in DTYPES


def attention_forward(tile: Tile, scores: Tensor, softmax: Tensor) -> None:
    """In place; arrays are described in `cpu_kernels.c`."""
    _call(_library.attention_forward, tile, [scores, softmax], spare_rows=2)


def attention_backward(tile: Tile, scores: Tensor, gradients: Tensor, softmax: Tensor) -> None:
    """In place; arrays are described in `cpu_kernels.c`."""
    _call(_library.attention_backward, tile, [scores, gradients, softmax], spare_rows=3)


def _call(function: Any, tile: Tile, arrays: list[Tensor], spare_rows: int) -> None:
    threads = torch.get_num_threads()
    spare = torch.empty(threads, spare_rows, tile.stride, dtype=torch.float32, device="cpu")
    function(tile, *(x.data_ptr() for x in (*arrays, spare)), threads)
