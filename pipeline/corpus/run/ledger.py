"""What became of chunks and units, noted in the folder `_work` for a later run to take up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.corpus.shards.format import MANIFEST, ShardInfo
from pipeline.corpus.text.sources import Unit
from pipeline.errors import CorpusError
from pipeline.storage import filesystem, write_whole

END = -1
"""Stands for a part in the result that says how many parts a unit has."""
PLACES = 5
"""Unreadable places that are named."""


class Result(BaseModel):
    """What was made of a chunk, or at the end of a unit."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    fingerprint: str = ""
    unit: int = -1
    part: int = END
    parts: int = 0
    """Chunks of the unit, in its END result"""
    shard: ShardInfo | None = None
    counts: dict[str, int] = {}
    drops: dict[str, int] = {}
    """Documents, lines and files left out, by reason"""
    unknown: dict[str, int] = {}
    """Characters that the vocabulary lacks, with their numbers"""
    bytes: int = 0
    """Of text that was read"""
    disk: int = 0
    """Bytes of the file that it took"""
    bad_bytes: int = 0
    """Bytes that could not be read as text"""
    places: tuple[str, ...] = ()
    """Some of where they stand"""
    error: str = ""
    """What stops the whole run"""


Done = dict[tuple[int, int], Result]
"""Results by (unit, part)."""


def part_name(unit: int, part: int) -> str:
    """`<unit>-<part>`, which sorts in the order of the inputs."""
    return f"{unit:06d}-{'end' if part == END else f'{part:04d}'}"


def note(folder: str, result: Result) -> Result:
    """Note that a piece of work is finished, after all that it made."""
    name = part_name(result.unit, result.part)
    write_whole(f"{folder}/_work/{name}.json", result.model_dump_json().encode())
    return result


def take_up(folder: str, fingerprint: str) -> Done:
    """Results of finished work; whatever else is in the folder is of another corpus and goes."""
    system, root = filesystem(folder)
    system.makedirs(f"{root}/_work", exist_ok=True)
    if system.exists(f"{root}/{MANIFEST}"):
        # First of all: while shards change, the folder is no corpus.
        system.rm_file(f"{root}/{MANIFEST}")
    done: Done = {}
    keep = set()
    for path in system.glob(f"{root}/_work/*.json"):
        try:
            result = Result.model_validate_json(system.cat_file(path))
        except ValidationError:
            result = Result()
        shard = result.shard
        if result.fingerprint == fingerprint and (not shard or are_there(folder, [shard])):
            done[result.unit, result.part] = result
            keep.add(shard.name if shard else "")
        else:
            system.rm_file(path)
    for path in system.glob(f"{root}/*"):
        name = path.rpartition("/")[2]
        if name.endswith((".arrow", ".tmp")) and name not in keep:
            system.rm_file(path)
    return done


def are_there(folder: str, shards: Iterable[ShardInfo]) -> bool:
    """Whether all shards have their sizes; their content is `jobs.verify`'s to look at."""
    system, root = filesystem(folder)
    paths = ((f"{root}/{shard.name}", shard.bytes) for shard in shards)
    return all(system.exists(path) and system.size(path) == size for path, size in paths)


def unfinished(units: Sequence[Unit], done: Done) -> list[Unit]:
    """Units of which not all parts are known and done."""

    def complete(number: int) -> bool:
        end = done.get((number, END))
        return end is not None and all((number, part) in done for part in range(end.parts))

    return [unit for unit in units if not complete(unit.number)]


def unreadable_places(done: Done) -> list[str]:
    """The first unreadable places in the order of the inputs."""
    ordered = sorted(done, key=lambda key: (key[0], key[1] == END, key[1]))
    return [place for key in ordered for place in done[key].places][:PLACES]


def refuse_garbage(done: Done, total: float, max_bad_share: float) -> None:
    """Compare what was bad with what was read, or with the `total` when that is exceeded already.

    Raises:
        CorpusError: more was unreadable or malformed than `max_bad_share`.
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
            "check corpus.format, corpus.text_field and corpus.encoding; corpus.keep_rejected "
            "keeps what was refused"
        )


def totals(done: Done, field: str) -> dict[str, int]:
    """Sums of `counts`, `drops` or `unknown` over all results, by name."""
    sums: Counter[str] = Counter()
    for result in done.values():
        sums.update(getattr(result, field))
    return dict(sorted(sums.items()))
