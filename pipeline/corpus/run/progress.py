"""Progress of a preparation: a line that is rewritten on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

from pipeline.corpus.run.tally import Result, Tally
from pipeline.corpus.shards.format import Manifest
from pipeline.corpus.text.units import Unit

QUIET_SECONDS = 10.0
"""Seconds between two lines where no terminal rewrites them."""


class Progress:
    """Counts results; shows documents and megabytes a second and the time left.

    Args:
        what: the folder that is written, or what else the work is for.
    """

    def __init__(self, units: Sequence[Unit], show: Callable[[str], None], what: str) -> None:
        self._what = what
        self._units = len(units)
        self._total = sum(unit.bytes for unit in units)
        self._show = show
        self._live = sys.stderr.isatty()
        self._begun = self._shown = time.monotonic()
        self._before = self._read = self._text = self._documents = 0

    def begin(self, done: Tally) -> None:
        """Show what is to do. Work that was finished before counts as done, but not as speed."""
        self._before = self._read = done.disk
        chunks = len(done.chunks)
        kept = f", {chunks} chunks are finished already" if chunks else ""
        self._show(f"{self._what}: {self._units} work units, {self._total / 1e6:,.1f} MB{kept}")

    def add(self, result: Result) -> None:
        """Count a result, and show the line if it is due."""
        self._read += result.disk
        self._documents += result.counts.get("documents", 0)
        self._text += result.bytes
        now = time.monotonic()
        if self._live:
            sys.stderr.write(f"\r{self.line()}\x1b[K")
            sys.stderr.flush()
        elif now - self._shown >= QUIET_SECONDS:
            self._shown = now
            self._show(self.line())

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
        """Show the totals."""
        if self._live:
            sys.stderr.write("\r\x1b[K")
        seconds = time.monotonic() - self._begun
        self._show(
            f"{manifest.rows:,} samples in {len(manifest.shards)} shards from "
            f"{manifest.counts.get('documents', 0):,} documents, {seconds:.1f} s"
            + "".join(f" · {number:,} {reason}" for reason, number in manifest.drops.items())
        )
