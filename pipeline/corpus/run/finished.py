"""The record of finished work, in the folder `_work`, from which a later start goes on.

A worker records each result in a file of its own, so that it outlives the driver. The driver
gathers many of them into one file, so that a later start need not read a file for each chunk.
"""

from collections.abc import Iterable

from pydantic import ValidationError

from pipeline.corpus.run.names import END, GATHERED, RECORD, WORK, chunk_name
from pipeline.corpus.run.output_folder import owned_shards
from pipeline.corpus.run.tally import Result, Tally
from pipeline.corpus.shards.format import MANIFEST, ShardInfo
from pipeline.corpus.threads import in_threads, remove_files
from pipeline.files.storage import filesystem, write_whole

GATHER = 1000
"""Records that the driver gathers into one file."""


def record(folder: str, result: Result) -> Result:
    """Record a result, after everything that belongs to it has been written."""
    write_whole(_record_path(folder, result), result.model_dump_json().encode())
    return result


def _record_path(folder: str, result: Result) -> str:
    return f"{folder}/{WORK}/{chunk_name(*result.key)}.json"


class Gatherer:
    """Gathers the records of a folder, `GATHER` at a time, and deletes the single ones.

    Args:
        names: the files in the folder's `_work`.
    """

    def __init__(self, folder: str, names: Iterable[str]) -> None:
        self._folder = folder
        self._waiting: list[Result] = []
        found = map(GATHERED.fullmatch, names)
        self._next = max((int(each[1]) + 1 for each in found if each), default=0)

    def add(self, result: Result) -> None:
        """Take a result that is recorded in a file of its own."""
        self._waiting.append(result)
        if len(self._waiting) < GATHER:
            return
        chunks = sum(each.chunk != END for each in self._waiting)
        lines = "".join(each.model_dump_json() + "\n" for each in self._waiting)
        name = f"finished-{self._next}-{chunks}.jsonl"
        write_whole(f"{self._folder}/{WORK}/{name}", lines.encode())
        remove_files(_record_path(self._folder, each) for each in self._waiting)
        self._next += 1
        self._waiting.clear()


def resume(
    folder: str, fingerprint: str, keep_rejected: str, listed: Iterable[str]
) -> tuple[Tally, Gatherer]:
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
    tally, useless, keep = Tally(), [], set()
    names = sizes_in(f"{folder}/{WORK}")
    gatherer = Gatherer(folder, names)
    # Gathered ones first: the driver may have been killed before it deleted the single ones.
    ordered = [*filter(GATHERED.fullmatch, names), *filter(RECORD.fullmatch, names)]
    paths = [f"{root}/{WORK}/{name}" for name in ordered]
    for name, data in zip(ordered, in_threads(system.cat_file, paths), strict=True):
        used = False
        for line in data.splitlines():
            result = _read(line)
            shard = result.shard
            if (
                result.fingerprint == fingerprint
                and (not shard or sizes.get(shard.name) == shard.bytes)
                and (not keep_rejected or not result.drops or result.keep_rejected == keep_rejected)
                and result.key not in tally
            ):
                used = True
                tally.add(result)
                keep.add(shard.name if shard else "")
                if RECORD.fullmatch(name):
                    gatherer.add(result)
        if not used:
            useless.append(f"{folder}/{WORK}/{name}")
    old = {*owned_shards(folder, sizes), *sizes.keys() & listed} - keep
    remove_files([*useless, *(f"{folder}/{name}" for name in old)])
    return tally, gatherer


def _read(line: bytes) -> Result:
    try:
        return Result.model_validate_json(line)
    except ValidationError:
        return Result()


def count_chunks(folder: str) -> int:
    """How many chunks are recorded as finished, those of first passes included."""
    system, root = filesystem(folder)
    count = 0
    for path in system.find(f"{root}/{WORK}"):
        name = path.rpartition("/")[2]
        if gathered := GATHERED.fullmatch(name):
            count += int(gathered[2])
        elif (single := RECORD.fullmatch(name)) and single[2]:
            count += 1
    return count


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
