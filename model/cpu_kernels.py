"""The functions of `cpu_fused_attention.c` and `cpu_add_norm.c`, which installing compiles.

Without them, as in an export or where there was no C compiler, torch's operators do the same.
"""

import ctypes
from importlib.util import find_spec
from typing import Any
from warnings import warn

import torch
from torch import Tensor

from .fused.dropout_rates import drop_below, keep_scale

LIBRARY = "nezha_cpu_kernels"
"""Not part of a package: jobs run in copies of this folder without what is compiled."""

SOURCES = 0xBF3D1F66
"""CRC-32 of the C files (setup.py) that this file was written for.

A library of others may expect other arrays.
"""

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
        sources = ctypes.c_uint32.in_dll(library, "nezha_sources").value
    except (OSError, ValueError) as error:  # made for another system, or before there was a number
        warn(f"{spec.origin} can not be used, CPUs will be slower: {error}", stacklevel=2)
        return None
    if sources != SOURCES:
        warn(
            f"{spec.origin} belongs to another version of this code and is not used: CPUs will be "
            "slower. To compile it anew: pip install --no-build-isolation -e .",
            stacklevel=2,
        )
        return None
    return library


_library = _load()


def kernels_suit(x: Tensor) -> bool:
    """Whether there are kernels, and for numbers of this type; they have to be `are_ordinary`."""
    return _library is not None and x.device.type == "cpu" and x.dtype in DTYPES


# Arrays are described where the functions are.


def attention_forward(tile: Tile, scores: Tensor, softmax: Tensor) -> None:
    _attend(_library.attention_forward, tile, softmax, scores)


def attention_backward(tile: Tile, scores: Tensor, gradients: Tensor, softmax: Tensor) -> None:
    _attend(_library.attention_backward, tile, softmax, scores, gradients)


def _attend(function: Any, tile: Tile, softmax: Tensor, *rows: Tensor) -> None:
    count = tile.heads * tile.rows * tile.stride
    _call(
        function,
        tile,
        *(_address(x, count, tile.bfloat16) for x in rows),
        _address(softmax, (tile.first_head + tile.heads) * tile.queries * 2),
        spare=3 * tile.stride,
    )


def add_norm_forward(
    norm: Norm,
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    out: Tensor,
    figures: Tensor,
) -> None:
    _call(
        _library.add_norm_forward,
        norm,
        *_rows(norm, x, residual),
        _address(weight, norm.width),
        _address(bias, norm.width),
        *_rows(norm, out),
        _address(figures, 2 * norm.rows),
        spare=4 * norm.width,
    )


def add_norm_backward(
    norm: Norm,
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    figures: Tensor,
    grad: Tensor,
    dx: Tensor,
    dresidual: Tensor,
) -> Tensor:
    """The gradients of weight and bias, float32 [2, width]; dx and dresidual are filled."""
    threads = torch.get_num_threads()
    sums = torch.zeros(threads, 2, norm.width, dtype=torch.float32, device="cpu")
    _call(
        _library.add_norm_backward,
        norm,
        *_rows(norm, x, residual),
        _address(weight, norm.width),
        _address(figures, 2 * norm.rows),
        *_rows(norm, grad, dx, dresidual),
        _address(sums, threads * 2 * norm.width),
        spare=4 * norm.width,
    )
    return sums.sum(0)


def _rows(norm: Norm, *arrays: Tensor) -> list[ctypes.c_void_p]:
    """Arrays of all rows."""
    return [_address(x, norm.rows * norm.width, norm.bfloat16) for x in arrays]


def _address(x: Tensor, count: int, bfloat16: int = False) -> ctypes.c_void_p:
    """Where so many numbers lie.

    Raises:
        ValueError: they do not lie side by side there, and C would write over something else.
    """
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    if x.dtype != dtype or x.numel() < count or not x.is_contiguous() or x.device.type != "cpu":
        raise ValueError(f"Expected {count} {dtype} in a row, not {x.dtype} {list(x.shape)}.")
    return ctypes.c_void_p(x.data_ptr())


def _call(
    function: Any, settings: ctypes.Structure, *addresses: ctypes.c_void_p, spare: int
) -> None:
    """With so many float32 to spare for each thread."""
    threads = torch.get_num_threads()
    room = torch.empty(threads * spare, dtype=torch.float32, device="cpu")
    function(ctypes.byref(settings), *addresses, _address(room, threads * spare), threads)
