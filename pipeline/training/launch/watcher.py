"""What a run's own records say while it trains, as lines for a person and as numbers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.background import repeated
from pipeline.files import journal
from pipeline.progress import Progress
from pipeline.settings.config import Config
from pipeline.training.faults import events
from pipeline.training.measure import history

if TYPE_CHECKING:  # without Ray there are none
    from pipeline.training.launch.ray_metrics import RunMetrics

POLL_SECONDS = 1.0
SILENT_SECONDS = 300.0
"""Seconds without a logged step after which a line says so."""


class Watcher:
    """Shows what is added to a run's history and to its record of faults.

    Args:
        metrics: takes the numbers too.
    """

    def __init__(
        self, folder: Path, config: Config, progress: Progress, metrics: RunMetrics | None = None
    ) -> None:
        self._steps, self._progress, self._metrics = config.train.steps, progress, metrics
        self._history = journal.Follower(folder / history.FILE, history.Figures)
        self._faults = journal.Follower(folder / events.FILE, events.Event)
        self._newest_at, self._silence_told = time.monotonic(), False
        steps = (int(record["step"]) for record in self._history.new())
        before = max(steps, default=0)
        for _ in self._faults.new():  # it was shown when it happened
            pass
        if metrics:
            metrics.begin(before)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Show what is new every POLL_SECONDS, and at the end."""

        def show() -> None:
            with suppress(OSError):  # the storage may come back, and the next call shows all
                self.show_new()

        try:
            with repeated(show, POLL_SECONDS, "progress"):
                yield
        finally:
            show()

    def show_new(self) -> None:
        """Show what is new, and say once that nothing has been for a while."""
        for record in self._history.new():
            self._newest_at, self._silence_told = time.monotonic(), False
            self._progress.update(history.progress_line(record, self._steps))
            if self._metrics:
                self._metrics.add(record)
        if not self._silence_told and time.monotonic() - self._newest_at > SILENT_SECONDS:
            self._progress.say(
                f"no logged step for {SILENT_SECONDS:.0f} s; waiting for the workers"
            )
            self._silence_told = True
        for event in self._faults.new():
            self._progress.say(event["text"])
            if self._metrics:
                self._metrics.happened(event["kind"])
