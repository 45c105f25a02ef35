"""Which sample comes when: pure functions of position, seed and sizes, with nothing to remember.

A run consumes positions 0, 1, 2 …; step s takes the `global_batch` positions from s * global_batch
on. The stream of a corpus of n samples is an endless row of epochs, each a permutation of all n,
so a batch may straddle two epochs: nothing is dropped or padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import gcd, lcm

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.columns import UINT64, draw, key_of, offsets_of

_ROUNDS = 4
"""Of the Feistel network; with good round functions, four look random (Luby and Rackoff 1988)."""
_EPOCH, _SHARDS, _WINDOW, _SOURCE = range(4)
"""What tells the random streams of one seed apart."""


def positions_of(step: int, global_batch: int, rank: int, world_size: int) -> NDArray[np.int64]:
    """The positions a rank takes in a step: a contiguous part of the step's, sizes at most 1 apart.

    Laid end to end, the ranks' parts are the step's positions, whatever the world size.
    """
    first = step * global_batch + global_batch * rank // world_size
    last = step * global_batch + global_batch * (rank + 1) // world_size
    return np.arange(first, last)


def sample_at(
    positions: NDArray[np.integer], shard_rows: NDArray[np.integer], seed: int, window: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The samples at these positions of a corpus's endless stream.

    Args:
        positions: [N]
        shard_rows: [K] samples of each shard; samples are numbered through all shards.
        window: 0 shuffles all samples. Else, in each epoch, shards are shuffled and then samples
            within every `window` successive ones, so that no more are needed at a time.

    Returns:
        [N] sample numbers and [N] epochs.
    """
    total = int(np.sum(shard_rows))
    epochs, within = np.divmod(np.asarray(positions, np.int64), total)
    if not window:
        keys = draw(np.full(len(epochs), key_of(seed, _EPOCH)), epochs)
        return permuted(within, total, keys), epochs
    samples = np.empty_like(within)
    for epoch in np.unique(epochs).tolist():
        at = epochs == epoch
        samples[at] = _windowed(within[at], np.asarray(shard_rows), seed, epoch, window)
    return samples, epochs


def _windowed(
    within: NDArray[np.int64], shard_rows: NDArray[np.int64], seed: int, epoch: int, window: int
) -> NDArray[np.int64]:
    count = len(shard_rows)
    shards = permuted(np.arange(count), count, key_of(seed, _SHARDS, epoch))
    first = offsets_of(shard_rows[shards])
    bounds = np.append(first[:-1:window], first[-1])
    which = np.searchsorted(bounds, within, side="right") - 1
    keys = draw(np.full(len(which), key_of(seed, _WINDOW, epoch)), which)
    place = bounds[which] + permuted(within - bounds[which], np.diff(bounds)[which], keys)
    slot = np.searchsorted(first, place, side="right") - 1
    return offsets_of(shard_rows)[shards[slot]] + place - first[slot]


def permuted(
    values: NDArray[np.int64], sizes: int | NDArray[np.int64], keys: np.uint64 | UINT64
) -> NDArray[np.int64]:
    """[N] where the permutations `keys` of 0 … sizes - 1 take these values; no table is built.

    A Feistel network over a grid of about sqrt(size) by sqrt(size) cells permutes the cells; a
    value that lands on a cell beyond `size` goes round again (Black and Rogaway 2002).
    """
    result = np.array(values, np.int64)
    sizes = np.broadcast_to(np.asarray(sizes, np.int64), result.shape)
    keys = np.broadcast_to(np.asarray(keys, np.uint64), result.shape)
    height = np.ceil(np.sqrt(sizes)).astype(np.int64)
    width = -(-sizes // height)
    outside = np.arange(len(result))
    while len(outside):
        moved = _permute_cells(result[outside], height[outside], width[outside], keys[outside])
        result[outside] = moved
        outside = outside[moved >= sizes[outside]]
    return result


def _permute_cells(
    cells: NDArray[np.int64], height: NDArray[np.int64], width: NDArray[np.int64], keys: UINT64
) -> NDArray[np.int64]:
    heights, widths = height.astype(np.uint64), width.astype(np.uint64)
    row, column = np.divmod(cells.astype(np.uint64), widths)
    for turn in range(_ROUNDS):
        # The upper half only: added to a row or column it can't overflow.
        if turn % 2 == 0:
            row = (row + (draw(keys, column * _ROUNDS + turn) >> np.uint64(32))) % heights
        else:
            column = (column + (draw(keys, row * _ROUNDS + turn) >> np.uint64(32))) % widths
    return (row * widths + column).astype(np.int64)


def quotas(weights: Sequence[str]) -> tuple[int, ...]:
    """Weights as written to the smallest whole numbers in the same ratio: 0.2, 0.6 to 1, 3.

    Raises:
        ValueError: a weight is no number above 0.
    """
    fractions = [Fraction(weight) for weight in weights]
    if any(fraction <= 0 for fraction in fractions):
        raise ValueError("a weight must be above 0")
    unit = lcm(*(fraction.denominator for fraction in fractions))
    whole = [int(fraction * unit) for fraction in fractions]
    return tuple(number // gcd(*whole) for number in whole)


def source_at(
    positions: NDArray[np.int64], shares: Sequence[int], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which of several sources each position reads, and its position in that source's stream.

    Every block of sum(shares) positions holds exactly `shares[i]` of source i, shuffled; each
    source's positions are used once and in blocks.
    """
    bounds = offsets_of(np.array(shares, np.int64))
    blocks, within = np.divmod(np.asarray(positions, np.int64), bounds[-1])
    keys = draw(np.full(len(blocks), key_of(seed, _SOURCE)), blocks)
    slots = permuted(within, int(bounds[-1]), keys)
    sources = np.searchsorted(bounds, slots, side="right") - 1
    return sources, blocks * np.diff(bounds)[sources] + slots - bounds[sources]
