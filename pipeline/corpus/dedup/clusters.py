"""Clusters of equal hashes: pure functions of arrays."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def repeats(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """[R] the places whose hash also occurs at an earlier place, ascending."""
    _, first = np.unique(hashes, return_index=True)
    return np.delete(np.arange(len(hashes)), first)


def equal_pairs(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """[E, 2] each place whose hash also occurs earlier, with the first place of that hash."""
    _, first, which = np.unique(hashes, return_index=True, return_inverse=True)
    place = np.flatnonzero(first[which] != np.arange(len(hashes)))
    return np.stack([place, first[which][place]], axis=1)


def join(total: int, pairs: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
    """[total] the smallest member of each member's cluster, its connected component.

    Args:
        total: number of members, 0 … total - 1.
        pairs: arrays [E, 2] of members that belong together.
    """
    label = np.arange(total)
    edges = np.concatenate([np.zeros((0, 2), np.int64), *pairs])
    while True:
        low = np.minimum(label[edges[:, 0]], label[edges[:, 1]])
        before = label.copy()
        for side in (0, 1):
            np.minimum.at(label, edges[:, side], low)
            np.minimum.at(label, before[edges[:, side]], low)
        label = label[label]
        if np.array_equal(label, before):
            return label


def count_clusters(first: NDArray[np.int64]) -> int:
    """How many clusters have two members or more, by the result of `join`."""
    return len(np.unique(first[first != np.arange(len(first))]))
