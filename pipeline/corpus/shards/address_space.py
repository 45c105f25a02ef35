"""Columns of memory-mapped shards, gathered by address in one numpy call for all shards at once.

numpy is given a read-only array that covers all memory from the first mapped shard to the last one.
An index into it is an address, so one look-up copies rows from any number of mapped files: 25 times
as fast as an index for each token, and without a Python step for each shard.

This assumes that
- numpy reads only the elements that an index selects: between the shards there is memory that
  belongs to others, or to nobody;
- callers keep files mapped while they use their addresses, and pass no index outside a file: a
  wrong address may end the process with a segmentation fault, without an exception;
- mapped memory follows the last row, because a row is read up to the width of its window.

`ShardFolder` checks offsets before it uses them, and copies shards that end too early.
"""

from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

PAGE = 4096


class AddressRange:
    """The memory between two addresses.

    The addresses may be any; only memory that an index selects is read.

    Args:
        low: address of the first byte, a multiple of 8.
        high: address after the last byte.
    """

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high
        self._views: dict[tuple[int, str], NDArray] = {}

    def including(self, low: int, high: int) -> "AddressRange":
        """The range that covers this one and other memory."""
        low = low // PAGE * PAGE
        if self.low <= low and high <= self.high:
            return self
        return AddressRange(min(self.low or low, low), max(self.high, high))

    def windows(
        self, addresses: NDArray[np.int64], index: NDArray[np.int64], width: int, kind: str
    ) -> NDArray:
        """[N, width] the numbers index[i] … index[i] + width - 1 of the column at addresses[i]."""
        if width == 0 or not len(index):
            return np.zeros((len(index), width), kind)
        size = np.dtype(kind).itemsize
        return self._view(width, kind)[(addresses - self.low) // size + index]

    def gather(self, addresses: NDArray[np.int64], index: NDArray[np.int64], kind: str) -> NDArray:
        """[N] number index[i] of the column at addresses[i]."""
        return self.windows(addresses, index, 1, kind)[:, 0]

    def bits(
        self, addresses: NDArray[np.int64], index: NDArray[np.int64], width: int
    ) -> NDArray[np.bool_]:
        """[N, width] bits index[i] … index[i] + width - 1 of the packed column at addresses[i]."""
        packed = self.windows(addresses, index >> 3, (width + 7) // 8 + 1, "u1")
        unpacked = np.unpackbits(packed, axis=1, bitorder="little")
        count, length = unpacked.shape
        shape = (max(0, count * length - width + 1), width)
        every: NDArray[np.bool_] = np.ndarray(shape, np.bool_, unpacked, strides=(1, 1))
        return every[np.arange(count) * length + (index & 7)]

    def _view(self, width: int, kind: str) -> NDArray:
        """[…, width] every sequence of `width` numbers in the range."""
        if (width, kind) not in self._views:
            size = np.dtype(kind).itemsize
            memory = SimpleNamespace(
                __array_interface__={
                    "version": 3,
                    "data": (self.low, True),
                    "typestr": np.dtype(kind).str,
                    "shape": ((self.high - self.low) // size - width + 1, width),
                    "strides": (size, size),
                }
            )
            self._views[width, kind] = np.asarray(memory)
        return self._views[width, kind]
