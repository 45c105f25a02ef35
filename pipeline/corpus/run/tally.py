"""The sums of the results of a preparation; only a few numbers of each chunk are held."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from pipeline.corpus.dedup.marks import LINE_REASONS, LOST
from pipeline.corpus.run.names import END
from pipeline.corpus.shards.format import ShardInfo
from pipeline.corpus.text.units import Unit
from pipeline.errors import CorpusError

PLACES = 5
"""How many unreadable places are named."""
DROPPED = 3
"""How many drops of each reason the manifest shows."""

NO_DOCUMENTS = {
    "malformed",
    "undecodable",
    "empty_file",
    "damaged_file",
    "no_text",
    LOST,
    *LINE_REASONS,
}
"""Reasons of drops that don't count as documents."""


class Result(BaseModel):
    """The result of a chunk or of the end of a unit."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    fingerprint: str = ""
    unit: int = -1
    chunk: int = END
    chunks: int = 0
    """Chunks of the unit; only in the result that ends it."""
    shard: ShardInfo | None = None
    counts: dict[str, int] = {}
    drops: dict[str, int] = {}
    """Documents, lines and files that were dropped, by reason."""
    dropped: dict[str, str] = {}
    """The first of them, by reason: its place and the beginning of its text."""
    keep_rejected: str = ""
    """Folder in which their text is kept."""
    measured: dict[str, int] = {}
    """Counts of samples and masks, see `samples.measuring`."""
    unknown: dict[str, int] = {}
    """Characters that the vocabulary lacks, with their numbers."""
    boilerplate: tuple[tuple[str, int], ...] = ()
    """Frequent lines that first occur in this chunk, with their numbers of documents."""
    bytes: int = 0
    """Bytes of text that were read."""
    disk: int = 0
    """Bytes of the file that were read for them."""
    bad_bytes: int = 0
    """Bytes that could not be read as text."""
    places: tuple[str, ...] = ()
    """Some of the places where they are."""
    error: str = ""
    """An error that stops the whole preparation."""

    @property
    def key(self) -> tuple[int, int]:
        """(unit, chunk)"""
        return self.unit, self.chunk


class Signed(NamedTuple):
    """How much a chunk holds, for the first pass."""

    documents: int
    lines: int
    """Lines that are compared."""


class Tally:
    """Sums over results, each of which is added once."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.drops: Counter[str] = Counter()
        self.measured: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()
        """Keys are characters, so there can't be more than Unicode has."""
        self.bytes = self.disk = self.bad_bytes = 0
        self.shards: list[ShardInfo] = []
        self.chunks: dict[tuple[int, int], Signed] = {}
        """The finished chunks by (unit, chunk), in any order."""
        self.ends: dict[int, int] = {}
        """The number of chunks of each unit that was read to its end."""
        self._boilerplate: list[tuple[int, tuple[int, int], int, str]] = []
        self._dropped: dict[str, list[tuple[int, int, str]]] = {}
        self._chunks_of: Counter[int] = Counter()
        self._places: list[tuple[int, bool, int, int, str]] = []

    def add(self, result: Result) -> None:
        """Add a result; one of the same chunk that was added before is ignored."""
        if result.key in self:
            return
        for name in ("counts", "drops", "measured", "unknown"):
            getattr(self, name).update(getattr(result, name))
        self.bytes += result.bytes
        self.disk += result.disk
        self.bad_bytes += result.bad_bytes
        self._boilerplate += [
            (-documents, result.key, number, line)
            for number, (line, documents) in enumerate(result.boilerplate)
        ]
        if result.shard:
            self.shards.append(result.shard)
        for reason, text in result.dropped.items():
            found = [*self._dropped.get(reason, ()), (*result.key, text)]
            self._dropped[reason] = sorted(found)[:DROPPED]
        end = result.chunk == END
        if end:
            self.ends[result.unit] = result.chunks
        else:
            counts = result.counts
            self.chunks[result.key] = Signed(counts.get("documents", 0), counts.get("lines", 0))
            self._chunks_of[result.unit] += 1
        if result.places:
            self._places += [
                (result.unit, end, result.chunk, number, place)
                for number, place in enumerate(result.places)
            ]
            self._places = sorted(self._places)[:PLACES]

    def __contains__(self, key: tuple[int, int]) -> bool:
        return key in self.chunks or (key[1] == END and key[0] in self.ends)

    def unfinished(self, units: Sequence[Unit]) -> list[Unit]:
        """The units whose end is not there, or not all of their chunks."""
        return [
            unit for unit in units if self._chunks_of[unit.number] != self.ends.get(unit.number)
        ]

    def dropped(self) -> dict[str, list[str]]:
        """Some of the drops, by reason, in the order of the inputs."""
        return {
            reason: [text for *_, text in first] for reason, first in sorted(self._dropped.items())
        }

    def boilerplate(self) -> tuple[tuple[str, int], ...]:
        """Lines of many documents with their numbers of documents, the most frequent ones first."""
        return tuple((line, -documents) for documents, _, _, line in sorted(self._boilerplate))

    def unreadable_places(self) -> list[str]:
        """The first unreadable places, in the order of the inputs."""
        return [place for *_, place in self._places]

    def check_bad_share(self, total: float, max_bad_share: float) -> None:
        """Check how much of the input was bad: of what was read, or already of the `total`.

        Raises:
            CorpusError: more than `max_bad_share` was unreadable or malformed.
        """
        malformed = self.drops["malformed"]
        dropped = sum(n for reason, n in self.drops.items() if reason not in NO_DOCUMENTS)
        documents = self.counts["documents"] + dropped
        share = self.bad_bytes / total
        if share <= max_bad_share:
            share = max(
                self.bad_bytes / max(1, self.bytes), malformed / max(1, malformed + documents)
            )
        if share > max_bad_share:
            places = "".join(f"\n  {place}" for place in self.unreadable_places())
            raise CorpusError(
                f"{min(share, 1):.0%} of the input is unreadable or malformed, more than "
                f"corpus.max_bad_share ({max_bad_share:.0%}): {self.bad_bytes:,} bytes, "
                f"{malformed:,} malformed documents{places}\n"
                "check corpus.format, corpus.text_field and corpus.encoding; to see what was "
                "dropped, set corpus.keep_rejected to a folder"
            )
