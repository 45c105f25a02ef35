"""The functions of `cpu_fused_attention.c` and `cpu_add_norm.c`, which installing compiles.

Without them, as in an export or where there was no C compiler, torch's operators do the same.
"""

import ctypes
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from .dropout_rates import drop_below, keep_scale

LIBRARY = "nezha_cpu_kernels"
"""Not part of a package: jobs run in copies of this folder without what is compiled."""

DTYPES = (torch.float32, torch.bfloat16)


class Dropout(ctypes.Structure):
    """What `Dropout` is in `cpu_kernels.h`."""

    _fields_ = (
        ("below", ctypes.c_int64),
        ("seed", ctypes.c_uint64),
        ("kept", ctypes.c_float),
    )

    @classmethod
    def of(cls, rate: float, seed: int) -> "Dropout":
        return cls(drop_below(rate), seed, keep_scale(rate))


class Tile(ctypes.Structure):
    """What `Tile` is in `cpu_fused_attention.c`, where its fields are described."""

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
        ("dropout", Dropout),
        ("scale", ctypes.c_float),
    )


class Norm(ctypes.Structure):
    """What `Norm` is in `cpu_add_norm.c`."""

    _fields_ = (
        ("rows", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("bfloat16", ctypes.c_int64),
        ("dropout", Dropout),
        ("epsilon", ctypes.c_float),
    )


def _load() -> Any:
    spec = find_spec(LIBRARY)
    if spec is None or spec.origin is None:
        return None
    try:
        library = ctypes.CDLL(spec.origin)
        sizes = [size() for size in (library.tile_bytes, library.norm_bytes)]
    except (OSError, AttributeError):  # made for another system, or of another version
        return None
    return library if sizes == [ctypes.sizeof(Tile), ctypes.sizeof(Norm)] else None


_library = _load()


def kernels_suit(x: Tensor) -> bool:
    """Whether there are kernels, and for numbers of this type."""
    return _library is not None and x.dtype in DTYPES


# Arrays are described where the functions are.


def attention_forward(tile: Tile, scores: Tensor, softmax: Tensor) -> None:
    _call(_library.attention_forward, tile, scores, softmax, _spare(3, tile.stride))


def attention_backward(tile: Tile, scores: Tensor, gradients: Tensor, softmax: Tensor) -> None:
    spare = _spare(3, tile.stride)
    _call(_library.attention_backward, tile, scores, gradients, softmax, spare)


def add_norm_forward(norm: Norm, *arrays: Tensor) -> None:
    """arrays: x, residual, weight, bias, out, figures"""
    _call(_library.add_norm_forward, norm, *arrays, _spare(4, norm.width))


def add_norm_backward(norm: Norm, *arrays: Tensor) -> Tensor:
    """arrays: x, residual, weight, figures, grad, dx, dresidual

    Returns the gradients of weight and bias, float32 [2, width].
    """
    sums = _spare(2, norm.width).zero_()
    _call(_library.add_norm_backward, norm, *arrays, sums, _spare(4, norm.width))
    return sums.sum(0)


def _spare(rows: int, width: int) -> Tensor:
    """For each thread so many rows, float32."""
    return torch.empty(torch.get_num_threads(), rows, width, dtype=torch.float32, device="cpu")


def _call(function: Any, settings: ctypes.Structure, *arrays: Tensor) -> None:
    pointers = (ctypes.c_void_p(x.data_ptr()) for x in arrays)
    function(ctypes.byref(settings), *pointers, torch.get_num_threads())
