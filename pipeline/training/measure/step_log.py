"""The run's record of its steps: `steps.jsonl`, a line for each, made by rank 0.

A line says what the step consumed and where the time since the last line went. `audit` and the run
report are made from it.
"""

import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, RootModel

from pipeline.corpus.randomness import mix
from pipeline.files import journal
from pipeline.files.disk import OWN, Disk

FILE = "steps.jsonl"
FLUSH_SECONDS = 2.0
"""Longest time for which lines are kept in memory."""


class Command(BaseModel):
    """The shape of a line of a command that begins to train."""

    command: Literal[True]
    end: float


class Step(BaseModel):
    """The shape of a line of a step; that of the time since the last step has no facts of it."""

    attempt: int
    end: float
    seconds: dict[str, float]
    step: int = 0
    batch: int = 0
    samples: int = 0
    sum: int = 0
    applied: bool = True
    damaged: int = 0


Line = RootModel[Command | Step]


class StepLog:
    """Collects lines, and writes them every few seconds and before each checkpoint.

    Args:
        attempt: number of this start of the workers; None on ranks that write nothing.
        disk: holds the folder.
    """

    def __init__(self, run: Path, attempt: int | None, disk: Disk = OWN) -> None:
        self._file = journal.Appender(run / FILE, disk) if attempt else None
        self._attempt = attempt
        self._lines: list[dict[str, Any]] = []
        self._seconds: dict[str, float] = {}
        self._last = self._flushed = time.monotonic()

    def lap(self, cause: str) -> None:
        """Count the time since the last call as time of `cause`."""
        now = time.monotonic()
        self._seconds[cause] = self._seconds.get(cause, 0.0) + now - self._last
        self._last = now

    def add(
        self, step: int, batch: int, samples: int, checksum: int, applied: bool, damaged: int = 0
    ) -> None:
        """Note a step.

        Args:
            step: number of the step, from 1.
            batch: number of its global batch, from 0; rewinds leave batches out.
            samples: how many samples all ranks consumed together.
            checksum: sum of their `checksum_of`.
            applied: whether the weights were updated.
            damaged: how many of the samples were left out, because their shards are damaged.
        """
        facts = {"step": step, "batch": batch, "samples": samples, "sum": checksum}
        self._note({**facts, "applied": applied} | ({"damaged": damaged} if damaged else {}))
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is held; a step must be on record before a checkpoint contains it."""
        self._flushed = time.monotonic()
        if self._file:
            self._file.add(self._lines)
        self._lines.clear()

    def close(self) -> None:
        """Write what is held, and the time since the last step."""
        self._note({})
        self.flush()

    def _note(self, facts: Mapping[str, Any]) -> None:
        seconds = {cause: round(value, 5) for cause, value in self._seconds.items()}
        self._seconds.clear()
        line = {"attempt": self._attempt, **facts, "end": round(time.time(), 3)}
        self._lines.append({**line, "seconds": seconds})


def each(run: Path) -> Iterator[dict[str, Any]]:
    """The lines one by one, oldest first."""
    return journal.each(run / FILE, Line)


def begin(run: Path) -> None:
    """Note that a command begins to train a run; its wall time counts from there."""
    run.mkdir(parents=True, exist_ok=True)
    journal.append(run / FILE, {"command": True, "end": round(time.time(), 3)})


def checksum_of(samples: NDArray[np.integer]) -> int:
    """Sum of 32-bit hashes of sample numbers: exact in float64 for up to two million samples."""
    return int((mix(samples.astype(np.uint64)) >> np.uint64(32)).sum())


class Attempt(NamedTuple):
    """One start of the workers."""

    number: int
    """From 1."""
    step: int
    """The step of the checkpoint that it went on from."""
    batches_skipped: int
    workers: int
    fingerprint: Mapping[str, Any]
    """`Feed.fingerprint_fields`"""


def attempts(happened: Sequence[Mapping[str, Any]]) -> list[Attempt]:
    """The starts of the workers among a run's events, oldest first."""
    facts = {"attempt", "step", "batches_skipped", "workers", "data"}
    starts = [event for event in happened if event["kind"] == "start" and event.keys() >= facts]
    return [
        Attempt(e["attempt"], e["step"], e["batches_skipped"], e["workers"], e["data"])
        for e in starts
    ]


def next_attempt(happened: Sequence[Mapping[str, Any]]) -> int:
    """The number of a start of the workers after these events."""
    return max((attempt.number for attempt in attempts(happened)), default=0) + 1


class Owners:
    """Which attempt made each step of the final weights: the last one that started before it.

    Args:
        found: the attempts, oldest first.
    """

    def __init__(self, found: Iterable[Attempt]) -> None:
        self._kept: list[Attempt] = []
        """Attempts that made steps which no later one made again."""
        for attempt in found:
            while self._kept and self._kept[-1].step >= attempt.step:
                self._kept.pop()
            self._kept.append(attempt)
        self._begins = [attempt.step for attempt in self._kept]

    def of(self, step: int) -> Attempt | None:
        """The attempt of a step; None before the first one."""
        place = bisect_left(self._begins, step)
        return self._kept[place - 1] if place else None
