"""Which files of an output folder are ours: only those are ever overwritten or deleted.

A folder is ours if it is empty, or if its manifest and the claim of its unfinished work name all
files in it. The claim is written before the first shard, and deleted after the manifest is written.
"""

import contextlib
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Literal

from fsspec import AbstractFileSystem
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.corpus.dedup.marks import REPORT
from pipeline.corpus.run.names import CLAIM, IN_WORK, LOCK, REJECTED, SHARD, TEMPORARY, WORK
from pipeline.corpus.shards.format import MANIFEST
from pipeline.corpus.text.listing import is_local
from pipeline.errors import CorpusError
from pipeline.files.file_lock import file_lock
from pipeline.files.storage import filesystem, write_whole
from pipeline.files.store import Store
from pipeline.files.store_lock import locked, stop_this_process
from pipeline.progress import Say

SHOWN = 5
"""How many files of others an error names."""


class Claim(BaseModel):
    """Names the files of a preparation that is not finished: those of its work units."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    made_by: Literal["jobs.prepare"] = "jobs.prepare"
    fingerprint: str = ""
    units: int = 0
    """Files of the units 0 … units - 1 are ours."""
    keep_rejected: str = ""
    """Folder of the dropped text; empty if it is not kept."""


def _read_claim(folder: str) -> tuple[Claim | None, set[str]]:
    """The claim of a folder, and the shards that its manifest names.

    A finished corpus has no claim: one is made from its manifest. None if the folder has neither.

    Raises:
        CorpusError: the folder holds a file that neither of them names.
    """
    system, root = filesystem(folder)
    entries = {_name(path) for path in _list(system, root)}
    claim = _claim_in_work(system, root) if WORK in entries else None
    manifest = _read_manifest(system, root) if MANIFEST in entries else None
    ours = {LOCK, WORK} if claim or _is_unused(system, f"{root}/{WORK}") else {LOCK}
    listed: set[str] = set()
    if manifest:
        listed = {shard["name"] for shard in manifest["shards"]}
        ours |= {MANIFEST, *listed}
        units = max((_unit(SHARD, name) for name in listed), default=-1) + 1
        rejected = manifest.get("settings", {}).get("keep_rejected", "")
        claim = claim or Claim(units=manifest.get("units", units), keep_rejected=rejected)
    if claim:
        ours.add(REPORT)
    units = claim.units if claim else 0
    foreign = [name for name in entries if not _is_ours(name, SHARD, units, ours)]
    if claim and WORK in entries:
        in_work = _names_below(system, f"{root}/{WORK}")
        foreign += [f"{WORK}/{name}" for name in in_work if not _is_in_work(name, units)]
    _refuse(foreign, folder, "corpus.output (of held-out text: train.eval_shards)")
    return claim, listed


def check_output(folder: str, keep_rejected: str) -> None:
    """Refuse folders that `begin` would refuse, unless the first one holds a corpus.

    A corpus may be up to date, and then other files beside it do no harm. Whether it is shows only
    after the inputs are read.

    Raises:
        CorpusError: see `begin`; or nothing can be written there.
    """
    if _read_manifest(*filesystem(folder)) is None:
        claim, _ = _read_claim(folder)
        _check_writable(folder)
        if keep_rejected:
            _files_of_rejected(keep_rejected, claim)
            _check_writable(keep_rejected)


def _check_writable(folder: str) -> None:
    """Refuse a local folder that can't be made or written."""
    system, place = filesystem(folder)
    if not is_local(system):
        return
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    if not os.path.isdir(place):
        raise CorpusError(f"{folder}: can't be written: {place} is no folder; name another one")
    if not os.access(place, os.W_OK | os.X_OK, effective_ids=True):
        raise CorpusError(
            f"{folder}: can't be written: no permission to write in {place}; name another one, or "
            "change its permissions"
        )


@contextlib.contextmanager
def held(folder: str, say: Say) -> Iterator[None]:
    """Let one command at a time work on a folder.

    Others wait for a local one, also on other hosts. In an object store, where a lock is known only
    by its heartbeat, they are refused.

    Raises:
        CorpusError: it holds files of others.
        ConfigError: another command prepares it.
        StorageError: the store does not answer.
    """
    _read_claim(folder)
    system, place = filesystem(folder)
    if not is_local(system):
        with locked(Store(folder), say, stop_this_process, LOCK, "corpus.output"):
            yield
        return
    path = Path(place, LOCK)
    path.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(path, lambda: say(f"{folder}: waiting for another command that prepares it")):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def begin(folder: str, claim: Claim) -> set[str]:
    """Write the claim, which makes the folder ours; returns the shards that a manifest names.

    Dropped text of an earlier corpus is deleted.

    Raises:
        CorpusError: the folder, or that of the dropped text, holds files of others.
    """
    before, listed = _read_claim(folder)
    if claim.keep_rejected:
        _clear_rejected(claim.keep_rejected, before, claim.fingerprint)
    # Files of units that the new plan does not have are ours until they are deleted.
    units = max(claim.units, before.units if before else 0)
    data = claim.model_copy(update={"units": units}).model_dump_json().encode()
    write_whole(f"{folder}/{CLAIM}", data)
    return listed


def owned_shards(folder: str, names: Iterable[str]) -> Iterator[str]:
    """Of the files in a folder, the shards that its claim names, and unfinished files of ours."""
    claim = _claim_in_work(*filesystem(folder)) or Claim()
    return (name for name in names if _is_ours(name, SHARD, claim.units))


def remove_work(folder: str, fingerprint: str) -> None:
    """Delete the files in `_work` that are ours, the claim last, and the folder if it is empty.

    A file that somebody else has put there meanwhile stays. If the claim is that of another
    corpus, nothing is deleted.
    """
    system, root = filesystem(folder)
    claim = _claim_in_work(system, root)
    if not claim or claim.fingerprint != fingerprint:
        return
    work = f"{root}/{WORK}"
    names = [name for name in _names_below(system, work) if _is_in_work(name, claim.units)]
    for name in sorted(names, key=lambda name: f"{WORK}/{name}" == CLAIM):
        system.rm_file(f"{work}/{name}")
    # Some file systems delete a folder with all that is in it.
    if not system.find(work):
        folders = [path for path, _, _ in system.walk(work)]
        for path in sorted(folders, key=len, reverse=True):
            with contextlib.suppress(OSError):
                system.rmdir(path)


def _clear_rejected(folder: str, claim: Claim | None, fingerprint: str) -> None:
    """Delete the dropped text of an earlier corpus, and half files, from `corpus.keep_rejected`.

    Args:
        claim: of the output folder; it names the folder of its dropped text.
        fingerprint: of the corpus to be made; what an interrupted start of it has finished is kept.

    Raises:
        CorpusError: the folder holds a file that the claim does not name, or is a file.
    """
    system, root = filesystem(folder)
    files = _files_of_rejected(folder, claim)
    earlier = claim is not None and claim.fingerprint != fingerprint
    for name in files:
        if earlier or TEMPORARY.fullmatch(_name(name)):
            system.rm_file(f"{root}/{name}")


def _files_of_rejected(folder: str, claim: Claim | None) -> list[str]:
    """The files of `corpus.keep_rejected`, all of which the claim must name."""
    system, root = filesystem(folder)
    if system.isfile(root):
        raise CorpusError(f"corpus.keep_rejected: {folder} is a file; name a folder")
    files = _names_below(system, root) if system.isdir(root) else []
    units = claim.units if claim and claim.keep_rejected == folder else 0
    foreign = [name for name in files if not _is_ours(name, REJECTED, units)]
    _refuse(foreign, folder, "corpus.keep_rejected")
    return files


def _claim_in_work(system: AbstractFileSystem, root: str) -> Claim | None:
    with contextlib.suppress(OSError, ValidationError):
        return Claim.model_validate_json(system.cat_file(f"{root}/{CLAIM}"))
    return None


def _read_manifest(system: AbstractFileSystem, root: str) -> dict | None:
    """The manifest, of whatever version, if it is one of ours."""
    with contextlib.suppress(OSError, ValueError):
        values = json.loads(system.cat_file(f"{root}/{MANIFEST}"))
        keys = {"schema_version", "shards", "vocab_sha256", "fingerprint"}
        if (
            isinstance(values, dict)
            and keys <= set(values)
            and all(isinstance(shard, dict) and "name" in shard for shard in values["shards"])
        ):
            return values
    return None


def _is_ours(name: str, pattern: re.Pattern[str], units: int, names: Collection[str] = ()) -> bool:
    """Whether a file has one of the names, or the pattern with a unit below `units`."""
    folder, slash, last = name.rpartition("/")
    if unfinished := TEMPORARY.fullmatch(last):
        whole = unfinished["name"]
        return units > 0 and (
            whole in (MANIFEST, REPORT) or _unit(pattern, folder + slash + whole) >= 0
        )
    return name in names or _unit(pattern, name) in range(units)


def _is_in_work(name: str, units: int) -> bool:
    """Whether a file in the work folder is ours; of those without a unit, all are."""
    return _is_ours(name, IN_WORK, max(1, units))


def _unit(pattern: re.Pattern[str], name: str) -> int:
    """The unit in the name of a file; 0 for a name that matches without one, -1 for no match."""
    found = pattern.fullmatch(name)
    return int(found[1] or 0) if found else -1


def _is_unused(system: AbstractFileSystem, work: str) -> bool:
    """Whether a work folder is empty, but for a claim that was never finished."""
    return all(_name(path).startswith(".ledger.") for path in system.find(work))


def _refuse(foreign: list[str], folder: str, setting: str) -> None:
    if foreign:
        more = f" and {len(foreign) - SHOWN} more" if len(foreign) > SHOWN else ""
        raise CorpusError(
            f"{setting}: {folder} holds files that do not belong to this corpus: "
            f"{', '.join(sorted(foreign)[:SHOWN])}{more}; name a folder that is new or empty, or "
            "move these files away (nothing was read or changed)"
        )


def _list(system: AbstractFileSystem, root: str) -> list[str]:
    """Paths in a folder; none if it does not exist.

    Raises:
        CorpusError: it is a file, or can't be listed.
    """
    try:
        system.invalidate_cache()
        if not system.exists(root):
            return []
        if not system.isdir(root):
            raise CorpusError(f"{root}: is a file, so no folder can be written there")
        return [path.rstrip("/") for path in system.ls(root, detail=False)]
    except OSError as error:
        raise CorpusError(f"{root}: can't be listed: {error}") from None


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _names_below(system: AbstractFileSystem, root: str) -> list[str]:
    """The files at all depths under a folder, each by its path from there."""
    return [path.removeprefix(root).lstrip("/") for path in system.find(root)]
