"""How far a corpus run is: a live line on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pipeline.corpus.shards import Manifest
from pipeline.corpus.sources import Unit

QUIET_SECONDS = 10.0
"""Between two lines where no terminal rewrites them."""


class Progress:
    """Counts results, and tells documents and megabytes a second and the time left."""

    def __init__(self, units: Sequence[Unit], show: Callable[[str], None]) -> None:
        self._bytes = {unit.number: unit.bytes for unit in units}
        self._show = show
        self._live = sys.stderr.isatty()
        self._total = sum(self._bytes.values())
        self._begun = self._told = time.monotonic()
        self._skipped = self._ended = 0
        self._documents = self._text = self._samples = 0

    def begin(self, folder: str, done: Iterable[dict[str, Any]], complete: set[int]) -> None:
        """Say what is to do; work of a former run counts as done but not for the speed."""
        self._skipped = self._ended = sum(self._bytes[number] for number in complete)
        chunks = sum("part" in result for result in done)
        kept = f", {chunks} shards of a former run are kept" if chunks else ""
        self._show(f"{folder}: {len(self._bytes)} work units, {self._total / 1e6:,.1f} MB{kept}")

    def add(self, result: dict[str, Any]) -> None:
        """Take in a finished chunk or the end of a unit."""
        if "parts" in result:
            self._ended += self._bytes[result["unit"]]
        else:
            self._documents += result["counts"].get("documents", 0)
            self._samples += result["counts"].get("samples", 0)
            self._text += result["bytes"]
        now = time.monotonic()
        if self._live:
            sys.stderr.write(f"\r{self.line()}\x1b[K")
            sys.stderr.flush()
        elif now - self._told >= QUIET_SECONDS:
            self._told = now
            self._show(self.line())

    def line(self) -> str:
        """One line: share done, documents/s, MB/s of text, time left."""
        seconds = max(time.monotonic() - self._begun, 1e-9)
        share = self._ended / max(1, self._total)
        speed = (self._ended - self._skipped) / seconds
        left = f"{(self._total - self._ended) / speed:,.0f} s left" if speed else "…"
        return (
            f"{share:4.0%} · {self._documents:,} documents, {self._documents / seconds:,.0f}/s · "
            f"{self._text / 1e6:,.1f} MB, {self._text / 1e6 / seconds:.1f} MB/s · {left}"
        )

    def end(self, manifest: Manifest) -> None:
        """Sum up."""
        if self._live:
            sys.stderr.write("\r\x1b[K")
        seconds = time.monotonic() - self._begun
        self._show(
            f"{manifest.rows:,} samples in {len(manifest.shards)} shards from "
            f"{manifest.counts.get('documents', 0):,} documents, {seconds:.1f} s"
            + "".join(f" · {number:,} {reason}" for reason, number in manifest.drops.items())
        )
