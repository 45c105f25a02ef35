"""A run in phases: its later steps read samples of another length, from shards of their own."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ShardError
from pipeline.feed.base import BaseFeed
from pipeline.feed.collate import Batch
from pipeline.feed.order import BatchSize
from pipeline.paths import RunPaths
from pipeline.settings.config import Config
from pipeline.settings.training import TrainSettings


class Phase(NamedTuple):
    """What a phase of a run reads."""

    steps: int
    samples: int
    sequence_length: int
    shards: tuple[str, ...]
    """Folders or URLs, each `PATH` or `PATH@WEIGHT`."""
    global_batch: int
    """Samples of its largest steps."""


def first_batch_size(train: TrainSettings) -> BatchSize:
    """Samples of each step of a run's first phase, the only one in which they may grow."""
    return BatchSize(train.global_batch, train.first_batch or 0, train.batch_warmup)


def largest_batch(train: TrainSettings) -> int:
    """Samples of the largest step of all phases."""
    return max([train.global_batch, *(phase.global_batch for phase in train.phases)])


def micro_batches(train: TrainSettings, world_size: int) -> int:
    """Micro-batches of a worker in any step: as many as the largest step needs."""
    return -(-largest_batch(train) // (world_size * train.micro_batch))


def phases_of(config: Config, steps: int | None = None) -> list[Phase]:
    """The phases of a run, up to its last step or to another one; the first is there always.

    Samples that rewinds leave out are not counted.
    """
    train, paths = config.train, RunPaths.of(config)
    last = train.steps if steps is None else steps
    ends = [min(last, end) for end in (*(phase.after for phase in train.phases), last)]
    size = first_batch_size(train)
    if train.init_state == "branch":  # of a run at its peak rate, whose batches have grown
        size = BatchSize(train.global_batch)
    length, batch = config.corpus.sequence_length, train.global_batch
    first = Phase(ends[0], size.before(ends[0]), length, paths.training, batch)
    later = [
        Phase(
            steps=end - begin,
            samples=(end - begin) * phase.global_batch,
            sequence_length=phase.sequence_length,
            shards=shards,
            global_batch=phase.global_batch,
        )
        for phase, shards, (begin, end) in zip(
            train.phases, paths.later, pairwise(ends), strict=True
        )
    ]
    return [first, *later]


class PhasedFeed(BaseFeed):
    """Feeds of phases one after another, as one feed.

    Its samples are numbered through the shards of all phases.

    Args:
        feeds: of each phase, whose first step is its step 0.
        after: steps of the run before each phase but the first, ascending.

    Raises:
        ShardError: the shards of two phases have different vocabularies.
    """

    def __init__(self, feeds: Sequence[BaseFeed], after: Sequence[int]) -> None:
        first, *later = feeds
        self._feeds, self._begins = feeds, np.array([0, *after])
        self._offsets = np.cumsum([0, *(feed.source_bounds[-1] for feed in feeds)])
        bounds = [
            offset + feed.source_bounds[:-1]
            for offset, feed in zip(self._offsets[:-1], feeds, strict=True)
        ]
        self.source_bounds = np.concatenate([*bounds, self._offsets[-1:]])
        self.batches, self.vocab_size = first.batches, first.vocab_size
        self.vocab_sha256 = first.vocab_sha256
        if any(feed.vocab_sha256 != first.vocab_sha256 for feed in later):
            raise ShardError(
                "the shards of train.phases have another vocabulary than those of the first steps; "
                "prepare them with the same corpus.vocab"
            )
        fields, phases = first.fingerprint_fields, []
        for begin, feed in zip(after, later, strict=True):
            of_feed = feed.fingerprint_fields.items()
            differing = {name: value for name, value in of_feed if fields[name] != value}
            phases.append({"after": begin, **differing})
        self.fingerprint_fields = {**fields, "phases": phases}

    def step(self, step: int, done: float = 0.0) -> list[Batch]:
        phase, within = self._at(step)
        return [
            batch._replace(samples=batch.samples + np.uint64(self._offsets[phase]))
            for batch in self._feeds[phase].step(within, done)
        ]

    def samples_before(self, step: int) -> int:
        phase, within = self._at(step)
        lengths = [*np.diff(self._begins)[:phase].tolist(), within]
        begun = self._feeds[: phase + 1]
        return sum(feed.samples_before(n) for feed, n in zip(begun, lengths, strict=True))

    def samples(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        phase, within = self._at(step)
        samples, epochs = self._feeds[phase].samples(within)
        return samples + self._offsets[phase], epochs

    def phase_of(self, step: int) -> int:
        return int(np.searchsorted(self._begins, step, side="right")) - 1

    def _at(self, step: int) -> tuple[int, int]:
        """The phase of a global step, and the number of the step in it."""
        phase = self.phase_of(step)
        return phase, step - int(self._begins[phase])
