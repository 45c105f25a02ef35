"""Sources of a feed: which sample of which source each position of the order reads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.arrays import offsets_of
from pipeline.feed.order import sample_at, source_at


class Sources:
    """Sources that are mixed in fixed shares; samples are numbered through all of them.

    Args:
        rows: of each source, the samples [K] of each of its shards.
        shares: of each source, its samples in a cycle of sum(shares) positions.
        seed: seed of the order.
        window: how many shards of a source are shuffled together; 0 shuffles all.
    """

    def __init__(
        self, rows: Sequence[NDArray[np.int64]], shares: tuple[int, ...], seed: int, window: int
    ) -> None:
        self.shares = shares
        self.bounds = offsets_of(np.array([each.sum() for each in rows]))
        """[sources + 1] the first sample of each source, and the end of the last."""
        self._rows, self._seed, self._window = rows, seed, window

    def samples_at(
        self, positions: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """[N] sample numbers through all sources, and [N] epochs of their sources."""
        if len(self.shares) == 1:
            return sample_at(positions, self._rows[0], self._seed, self._window)
        sources, within = source_at(positions, self.shares, self._seed)
        samples, epochs = np.empty_like(within), np.empty_like(within)
        for source, rows in enumerate(self._rows):
            at = sources == source
            numbers, epochs[at] = sample_at(within[at], rows, self._seed + source, self._window)
            samples[at] = self.bounds[source] + numbers
        return samples, epochs
