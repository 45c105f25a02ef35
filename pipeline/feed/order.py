"""The order of samples: pure functions of position, seed and sizes, without any state.

A run consumes positions 0, 1, 2 …; each step takes the next global batch of them. A corpus of n
samples gives an endless sequence of epochs, each a permutation of all n samples. A batch may
contain the end of one epoch and the start of the next: nothing is dropped or padded.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.arrays import offsets_of
from pipeline.corpus.randomness import UINT64, draw, key_of

_ROUNDS = 4
"""Rounds of the Feistel network. Four suffice to look random (Luby and Rackoff 1988)."""
_EPOCH, _SHARDS, _WINDOW, _SOURCE = range(4)
"""Numbers that separate the random streams of one seed."""


class BatchSize(NamedTuple):
    """Samples of each step: `first` in step 0, growing evenly to `full` in step `growing`."""

    full: int
    first: int = 0
    growing: int = 0

    def of(self, step: int) -> int:
        """Samples of a step."""
        return self.before(step + 1) - self.before(step)

    def before(self, step: int) -> int:
        """Samples of all steps before this one."""
        ramp = min(step, self.growing)
        return int(_growth(self)[ramp]) + (step - ramp) * self.full


@lru_cache(maxsize=4)
def _growth(size: BatchSize) -> NDArray[np.int64]:
    """[growing + 1] samples before each step of the growth."""
    steps = np.arange(size.growing)
    return offsets_of(size.first + (size.full - size.first) * steps // max(1, size.growing))


def positions_of(step: int, size: BatchSize, rank: int, world_size: int) -> NDArray[np.int64]:
    """The positions that a rank takes in a step: a contiguous part of the step's positions.

    In order of rank, these parts are the step's positions for any world size. Their sizes differ by
    at most 1.
    """
    start, samples = size.before(step), size.of(step)
    first, last = (start + samples * part // world_size for part in (rank, rank + 1))
    return np.arange(first, last)


def sample_at(
    positions: NDArray[np.integer], shard_rows: NDArray[np.integer], seed: int, window: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The samples at these positions of a corpus's endless sequence.

    Args:
        positions: [N]
        shard_rows: [K] samples of each shard; samples are numbered through all shards.
        window: 0 shuffles all samples. Otherwise each epoch shuffles the shards, and then the
            samples within every `window` successive shards, so that only those are needed at once.

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
    """[N] samples at these positions of an epoch that is shuffled by windows of shards."""
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
    """[N] images of values under the permutations `keys` of 0 … sizes - 1, without any table.

    A Feistel network permutes the cells of a grid of about sqrt(size) by sqrt(size). A value whose
    image is a cell beyond `size` is permuted again (cycle walking, Black and Rogaway 2002).
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
        # Only the upper half is used: its sum with a row or column can't overflow.
        if turn % 2 == 0:
            row = (row + (draw(keys, column * _ROUNDS + turn) >> np.uint64(32))) % heights
        else:
            column = (column + (draw(keys, row * _ROUNDS + turn) >> np.uint64(32))) % widths
    return (row * widths + column).astype(np.int64)


def source_at(
    positions: NDArray[np.int64], shares: Sequence[int], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """[N] the source that each position reads, and [N] its position in that source's sequence.

    Every cycle of sum(shares) positions reads exactly `shares[i]` samples of source i, in shuffled
    order. Each position of a source is used once.
    """
    bounds = offsets_of(np.array(shares, np.int64))
    cycles, within = np.divmod(np.asarray(positions, np.int64), bounds[-1])
    keys = draw(np.full(len(cycles), key_of(seed, _SOURCE)), cycles)
    slots = permuted(within, int(bounds[-1]), keys)
    sources = np.searchsorted(bounds, slots, side="right") - 1
    return sources, cycles * np.diff(bounds)[sources] + slots - bounds[sources]


def mixed_at(
    positions: NDArray[np.int64],
    rows: Sequence[NDArray[np.int64]],
    shares: Sequence[int],
    seed: int,
    window: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The samples at these positions of sources that are mixed.

    Args:
        positions: [N]
        rows: of each source, the samples [K] of each of its shards.
        shares: of each source, its samples in a cycle of sum(shares) positions.
        window: as `sample_at`.

    Returns:
        [N] sample numbers through all sources, and [N] epochs of their sources.
    """
    if len(shares) == 1:
        return sample_at(positions, rows[0], seed, window)
    sources, within = source_at(positions, shares, seed)
    samples, epochs = np.empty_like(within), np.empty_like(within)
    first = 0
    for source, of_shards in enumerate(rows):
        at = sources == source
        numbers, epochs[at] = sample_at(within[at], of_shards, seed + source, window)
        samples[at] = first + numbers
        first += of_shards.sum()
    return samples, epochs
