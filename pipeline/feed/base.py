"""What every feed offers: the micro-batches of any global step, made ahead in the background."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.feed.collate import Batch
from pipeline.files.hashing import hash_of

_AHEAD = 4
"""Steps that the background makes before they are asked for."""


class BaseFeed(ABC):
    """What one rank reads in each step. The global batches are the same for any world size."""

    batches: int
    """Micro-batches of this rank in a step."""
    vocab_sha256: str
    vocab_size: int
    fingerprint_fields: dict[str, Any]
    """All that the order and the content of the batches depend on."""
    source_bounds: NDArray[np.int64]
    """First sample of each source, whose epochs are counted apart, and the end of the last."""

    @abstractmethod
    def step(self, step: int, done: float = 0.0) -> list[Batch]:
        """This rank's micro-batches of a global step (0, 1, 2 …).

        Args:
            done: share of the training that is over, on which masks may depend.
        """

    @abstractmethod
    def samples_before(self, step: int) -> int:
        """Samples that the global steps before this one consume."""

    @abstractmethod
    def samples(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of a global step: the numbers of its samples, through all shards, and their epochs."""

    def phase_of(self, step: int) -> int:
        """The phase, from 0, that a global step belongs to."""
        return 0

    @property
    def fingerprint(self) -> str:
        """SHA-256 of `fingerprint_fields`."""
        return hash_of(self.fingerprint_fields)

    def iterate(self, first: int, last: int, skipped: int = 0) -> Generator[list[Batch]]:
        """The micro-batches of steps first … last - 1 of a run, made ahead in a background thread.

        Step s reads global batch s + `skipped`: batches that another run consumed, or that rewinds
        left out, are not steps of this run. An error in the thread is raised here; closing the
        iterator ends the thread.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="feed") as executor:
            waiting: deque[Future[list[Batch]]] = deque()
            try:
                for step in range(first, last):
                    waiting.append(executor.submit(self.step, step + skipped, step / last))
                    if len(waiting) > _AHEAD:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                executor.shutdown(cancel_futures=True)
