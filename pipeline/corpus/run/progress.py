"""Progress of a preparation: documents and megabytes a second, and the time left."""

from __future__ import annotations

import time
from collections.abc import Sequence

from pipeline.corpus.run.tally import Result, Tally
from pipeline.corpus.shards.format import Manifest
from pipeline.corpus.text.units import Unit
from pipeline.progress import Progress


class WorkProgress:
    """Counts results, and reports how far the work is.

    Args:
        what: the folder that is written, or what else the work is for.
    """

    def __init__(self, units: Sequence[Unit], progress: Progress, what: str) -> None:
        self._what = what
        self._units = len(units)
        self._total = sum(unit.bytes for unit in units)
        self._progress = progress
        self._begun = time.monotonic()
        self._before = self._read = self._text = self._documents = 0

    def begin(self, done: Tally) -> None:
        """Say what is to do. Work that was finished before counts as done, but not as speed."""
        self._before = self._read = done.disk
        chunks = len(done.chunks)
        kept = f", {chunks} chunks are finished already" if chunks else ""
        self._progress.say(
            f"{self._what}: {self._units} work units, {self._total / 1e6:,.1f} MB{kept}"
        )
        self._progress.update("  0%")  # replaces the line of the work before

    def add(self, result: Result) -> None:
        """Count a result, and report where the work is now."""
        self._read += result.disk
        self._documents += result.counts.get("documents", 0)
        self._text += result.bytes
        self._progress.update(self.line())

    def line(self) -> str:
        """One line: share done, documents a second, MB of text a second, time left."""
        seconds = max(time.monotonic() - self._begun, 1e-9)
        left = seconds * max(0, self._total - self._read) / max(1, self._read - self._before)
        return (
            f"{min(1.0, self._read / max(1, self._total)):4.0%} · {self._documents:,} documents, "
            f"{self._documents / seconds:,.0f}/s · {self._text / 1e6:,.1f} MB, "
            f"{self._text / 1e6 / seconds:.1f} MB/s · {left:,.0f} s left"
        )

    def end(self, manifest: Manifest) -> None:
        """Say the totals."""
        seconds = time.monotonic() - self._begun
        self._progress.say(
            f"{manifest.rows:,} samples in {len(manifest.shards)} shards from "
            f"{manifest.counts.get('documents', 0):,} documents, {seconds:.1f} s"
            + "".join(f" · {number:,} {reason}" for reason, number in manifest.drops.items())
        )
