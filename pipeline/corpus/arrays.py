"""Rows of different lengths laid end to end in one flat array: offsets and ranges."""

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


def offsets_of(lengths: NDArray[np.integer] | NDArray[np.bool_]) -> NDArray[np.int64]:
    """[N + 1] offsets of rows of these [N] lengths: row i is [offsets[i], offsets[i + 1])."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def ranges(starts: NDArray[np.integer], lengths: NDArray[np.integer]) -> NDArray[np.int64]:
    """The integers of [starts[i], starts[i] + lengths[i]) for all i, one range after another."""
    offsets = offsets_of(lengths)
    result = np.repeat(starts - offsets[:-1], lengths)
    result += np.arange(offsets[-1])
    return result


def evenly_spread(count: int, total: int) -> NDArray[np.int64]:
    """Up to `count` of the numbers 0 … total - 1, spread evenly, ascending."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).astype(np.int64))
