"""Clusters of equal hashes and connected components: pure functions of arrays."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.corpus.arrays import Integers


def first_equal(hashes: NDArray[np.uint64]) -> tuple[Integers, Integers]:
    """[H] the first place of each distinct hash, in the order of the hashes, and [D] for each of
    the D places the first place with the same hash."""
    _, first, which = np.unique(hashes, return_index=True, return_inverse=True)
    return first, first[which]


def equal_pairs(hashes: NDArray[np.uint64], numbers: Integers) -> Integers:
    """[E, 2] each number whose hash occurs at an earlier place, with the number at the first one.

    Args:
        hashes: [N]
        numbers: [N] what the places stand for. A pair of equal numbers is left out.
    """
    _, first = first_equal(hashes)
    pairs = np.stack([numbers, numbers[first]], axis=1)
    return pairs[pairs[:, 0] != pairs[:, 1]]


def join(total: int, pairs: Iterable[Integers]) -> Integers:
    """[total] the smallest member of each member's cluster, its connected component.

    Args:
        total: number of members, 0 … total - 1.
        pairs: arrays [E, 2] of members that belong together.
    """
    edges = np.concatenate([np.zeros((0, 2), np.int64), *pairs])
    graph = coo_array((np.ones(len(edges), np.int8), tuple(edges.T)), shape=(total, total))
    _, component = connected_components(graph, directed=False)
    first, _ = first_equal(component)
    return first[component]


def large_star(edges: Integers, least: Integers) -> Integers:
    """[F, 2] each larger neighbour of a vertex, with the least of the vertex and its neighbours.

    `large_star` and `small_star`, applied in turns to all edges of a graph, end with a star for
    each connected component, in whose centre is the smallest member (Kiveris et al. 2014,
    "Connected Components in MapReduce and Beyond"). Each needs the edges of one vertex at a time.

    Args:
        edges: [E, 2] a vertex and a neighbour.
        least: [E] the least of this vertex and all its neighbours.
    """
    larger = edges[:, 1] > edges[:, 0]
    return np.stack([edges[larger, 1], least[larger]], axis=1)


def small_star(edges: Integers, least: Integers) -> Integers:
    """[F, 2] each smaller neighbour of a vertex, and the vertex, with the least neighbour.

    The arguments are those of `large_star`.
    """
    smaller = edges[:, 1] < edges[:, 0]
    edges, least = edges[smaller], least[smaller]
    pairs = np.concatenate([np.stack([edges[:, side], least], axis=1) for side in (0, 1)])
    return pairs[pairs[:, 0] != pairs[:, 1]]
