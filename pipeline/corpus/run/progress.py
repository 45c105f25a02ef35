"""Progress of a preparation: documents and megabytes a second, and the time left."""

import time
from collections.abc import Sequence

from pipeline.corpus.run.tally import Tally
from pipeline.corpus.shards.format import Manifest
from pipeline.corpus.text.units import Unit
from pipeline.progress import Progress


class WorkProgress:
    """Reports how far the work is.

    Args:
        what: the folder that is written, or what else the work is for.
    """

    def __init__(self, units: Sequence[Unit], progress: Progress, what: str) -> None:
        self._what = what
        self._units = len(units)
        self._total = sum(unit.bytes for unit in units)
        self._progress = progress
        self._begun = time.monotonic()
        self._before = 0, 0, 0

    def begin(self, done: Tally) -> None:
        """Say what is to do. Work that was finished before counts as done, but not as speed."""
        self._before = _read(done)
        chunks = len(done.chunks)
        kept = f", {chunks} chunks are finished already" if chunks else ""
        self._progress.say(
            f"{self._what}: {self._units} work units, {self._total / 1e6:,.1f} MB{kept}"
        )
        self._progress.update("  0%")  # replaces the line of the work before

    def update(self, done: Tally) -> None:
        """Report the share done, documents a second, MB of text a second and the time left."""
        disk, size, documents = (
            now - before for now, before in zip(_read(done), self._before, strict=True)
        )
        seconds = max(time.monotonic() - self._begun, 1e-9)
        left = seconds * max(0, self._total - done.disk) / max(1, disk)
        self._progress.update(
            f"{min(1.0, done.disk / max(1, self._total)):4.0%} · {documents:,} documents, "
            f"{documents / seconds:,.0f}/s · {size / 1e6:,.1f} MB, "
            f"{size / 1e6 / seconds:.1f} MB/s · {left:,.0f} s left"
        )

    def end(self, manifest: Manifest) -> None:
        """Say the totals."""
        seconds = time.monotonic() - self._begun
        self._progress.say(
            f"{manifest.rows:,} samples in {len(manifest.shards)} shards from "
            f"{manifest.counts.get('documents', 0):,} documents, {seconds:.1f} s"
            + "".join(f" · {number:,} {reason}" for reason, number in manifest.drops.items())
        )


def _read(done: Tally) -> tuple[int, int, int]:
    """Bytes on disk, bytes of text, and documents that were read."""
    return done.disk, done.bytes, done.counts["documents"]
