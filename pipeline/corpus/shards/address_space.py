"""Columns of memory-mapped shards, gathered by address in one numpy call for all shards at once.

numpy is given one read-only array that covers this process's whole address space below 2^47. An
index into it is an address, so one look-up copies rows from any number of mapped files: 25 times as
fast as an index for each token, and without a Python step for each shard.

This assumes that
- mapped files lie below 2^47: true on x86-64 Linux; on aarch64 they may lie higher;
- numpy reads only the elements that an index selects;
- callers keep files mapped while they use their addresses, and pass no index outside a file: a
  wrong address ends the process with a segmentation fault, without an exception;
- mapped memory follows the last row, because a row is read up to the width of its window.

`ShardFolder` checks offsets before it uses them, and copies shards that end too early.
"""

from __future__ import annotations

from functools import lru_cache
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

_BASE = 4096
"""Address at which the array begins: the page at 0 is never mapped."""


def windows(
    addresses: NDArray[np.int64], index: NDArray[np.int64], width: int, kind: str
) -> NDArray:
    """[N, width] the numbers index[i] … index[i] + width - 1 of the column at addresses[i]."""
    if width == 0:
        return np.zeros((len(index), 0), kind)
    return _every_window(width, kind)[(addresses - _BASE) // np.dtype(kind).itemsize + index]


def gather(addresses: NDArray[np.int64], index: NDArray[np.int64], kind: str) -> NDArray:
    """[N] number index[i] of the column at addresses[i]."""
    return windows(addresses, index, 1, kind)[:, 0]


def bits(addresses: NDArray[np.int64], index: NDArray[np.int64], width: int) -> NDArray[np.bool_]:
    """[N, width] the bits index[i] … index[i] + width - 1 of the packed column at addresses[i]."""
    packed = windows(addresses, index >> 3, (width + 7) // 8 + 1, "u1")
    unpacked = np.unpackbits(packed, axis=1, bitorder="little")
    rows = unpacked.ctypes.data + np.arange(len(unpacked)) * unpacked.shape[1]
    return windows(rows, index & 7, width, "u1").view(np.bool_)


@lru_cache(maxsize=64)
def _every_window(width: int, kind: str) -> NDArray:
    """[…, width] every sequence of `width` numbers in the address space, from `_BASE` on."""
    dtype = np.dtype(kind)
    memory = SimpleNamespace(
        __array_interface__={
            "version": 3,
            "data": (_BASE, True),
            "typestr": dtype.str,
            "shape": (2**47 // dtype.itemsize - width, width),
            "strides": (dtype.itemsize, dtype.itemsize),
        }
    )
    return np.asarray(memory)
