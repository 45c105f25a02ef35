"""The record of finished work, in the folder `_work`, from which a later start goes on."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.corpus.run.output_folder import WORK, owned_shards
from pipeline.corpus.shards.format import MANIFEST, ShardInfo
from pipeline.corpus.text.units import Unit
from pipeline.errors import CorpusError
from pipeline.storage import filesystem, write_whole

END = -1
"""Stands for a chunk's number in the result that ends a unit."""
RECORD = re.compile(r"\d{6,}-(\d{4,}|end)\.json")
PLACES = 5
"""How many unreadable places are named."""


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
    keep_rejected: str = ""
    """Folder in which their text is kept."""
    measured: dict[str, int] = {}
    """Counts of samples and masks, see `samples.measuring`."""
    unknown: dict[str, int] = {}
    """Characters that the vocabulary lacks, with their numbers."""
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


Done = dict[tuple[int, int], Result]
"""Results by (unit, chunk)."""


def chunk_name(unit: int, chunk: int) -> str:
    """`<unit>-<chunk>`; the names sort in the order of the inputs."""
    return f"{unit:06d}-{'end' if chunk == END else f'{chunk:04d}'}"


def record(folder: str, result: Result) -> Result:
    """Record a result, after everything that belongs to it has been written."""
    name = chunk_name(result.unit, result.chunk)
    write_whole(f"{folder}/{WORK}/{name}.json", result.model_dump_json().encode())
    return result


def resume(
    folder: str, fingerprint: str, keep_rejected: str = "", listed: Iterable[str] = ()
) -> Done:
    """The recorded results of this fingerprint. All other files of ours are deleted.

    Args:
        folder: of the shards, which `begin` made ours, or of a first pass, in its `_work`.
        keep_rejected: where dropped text is kept; a result with drops that are not there does not
            count.
        listed: shards that a manifest names.
    """
    system, root = filesystem(folder)
    if system.exists(f"{root}/{MANIFEST}"):
        # While shards change, the folder must not look like a corpus.
        system.rm_file(f"{root}/{MANIFEST}")
    sizes = sizes_in(folder)
    done: Done = {}
    keep = set()
    for name in sizes_in(f"{folder}/{WORK}"):
        if not RECORD.fullmatch(name):
            continue
        path = f"{root}/{WORK}/{name}"
        try:
            result = Result.model_validate_json(system.cat_file(path))
        except ValidationError:
            result = Result()
        shard = result.shard
        if (
            result.fingerprint == fingerprint
            and (not shard or sizes.get(shard.name) == shard.bytes)
            and (not keep_rejected or not result.drops or result.keep_rejected == keep_rejected)
        ):
            done[result.unit, result.chunk] = result
            keep.add(shard.name if shard else "")
        else:
            system.rm_file(path)
    for name in {*owned_shards(folder), *listed}:
        if name in sizes and name not in keep:
            system.rm_file(f"{root}/{name}")
    return done


def count_chunks(folder: str) -> int:
    """How many chunks are recorded as finished, those of first passes included."""
    system, root = filesystem(folder)
    names = (path.rpartition("/")[2] for path in system.find(f"{root}/{WORK}"))
    return sum(bool(RECORD.fullmatch(name)) and "end" not in name for name in names)


def sizes_in(folder: str) -> dict[str, int]:
    """Bytes of the files in a folder, by name, from one listing; empty if there is no folder."""
    system, root = filesystem(folder)
    system.invalidate_cache()
    try:
        entries = system.ls(root, detail=True)
    except FileNotFoundError:
        return {}
    return {each["name"].rpartition("/")[2]: each["size"] for each in entries}


def missing_shards(folder: str, shards: Iterable[ShardInfo]) -> list[str]:
    """The shards that are absent or have another size; `jobs.verify` checks their content."""
    sizes = sizes_in(folder)
    return [shard.name for shard in shards if sizes.get(shard.name) != shard.bytes]


def unfinished_units(units: Sequence[Unit], done: Done) -> list[Unit]:
    """The units whose end is not recorded, or not all of their chunks."""

    def complete(number: int) -> bool:
        end = done.get((number, END))
        return end is not None and all((number, chunk) in done for chunk in range(end.chunks))

    return [unit for unit in units if not complete(unit.number)]


def unreadable_places(done: Done) -> list[str]:
    """The first unreadable places, in the order of the inputs."""
    ordered = sorted(done, key=lambda key: (key[0], key[1] == END, key[1]))
    return [place for key in ordered for place in done[key].places][:PLACES]


def check_bad_share(done: Done, total: float, max_bad_share: float) -> None:
    """Check how much of the input was bad: of what was read, or already of the `total`.

    Raises:
        CorpusError: more than `max_bad_share` was unreadable or malformed.
    """
    results = done.values()
    bad = sum(result.bad_bytes for result in results)
    malformed = sum(result.drops.get("malformed", 0) for result in results)
    documents = sum(result.counts.get("documents", 0) for result in results)
    share = bad / total
    if share <= max_bad_share:
        read = sum(result.bytes for result in results)
        share = max(bad / max(1, read), malformed / max(1, malformed + documents))
    if share > max_bad_share:
        places = "".join(f"\n  {place}" for place in unreadable_places(done))
        raise CorpusError(
            f"{share:.0%} of the input is unreadable or malformed, more than corpus.max_bad_share "
            f"({max_bad_share:.0%}): {bad:,} bytes, {malformed:,} malformed documents{places}\n"
            "check corpus.format, corpus.text_field and corpus.encoding; to see what was dropped, "
            "set corpus.keep_rejected to a folder"
        )


def totals(done: Done, field: str) -> dict[str, int]:
    """Sums of `counts`, `drops`, `measured` or `unknown` over all results, by name."""
    sums: Counter[str] = Counter()
    for result in done.values():
        sums.update(getattr(result, field))
    return dict(sorted(sums.items()))
