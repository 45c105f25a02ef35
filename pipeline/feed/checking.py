"""Shards are compared with their manifests once, before training starts."""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from pipeline.corpus.shards.format import Manifest, ShardInfo, read_manifest
from pipeline.corpus.shards.shard_file import check_bytes, open_batch
from pipeline.cpu import usable_cpus
from pipeline.errors import ShardError
from pipeline.files.storage import read_note, write_json
from pipeline.files.urls import is_url
from pipeline.progress import Say

NOTE = "shards_checked.json"
"""File in the run's folder: of each shard that was checked, size, time and SHA-256, and what is
wrong with it."""
THREADS = 4
Note = dict[str, list]
"""By the path of a shard."""


def check_shards(folders: Iterable[str], run: Path, skip: bool, say: Say) -> None:
    """Check the SHA-256 of every local shard, and its ids against the size of the vocabulary.

    A shard that has not changed since it was checked for this run is not read again. Those of
    object stores are checked when they are fetched.

    Args:
        folders: shard folders or URLs.
        skip: whether damaged shards are left out of the training; else they are an error.
        say: takes a line for each damaged shard that is left out.

    Raises:
        ShardError: shards are missing or damaged; the message names all of them.
    """
    local = [folder for folder in folders if not is_url(folder)]
    listed = [
        (Path(folder, info.name), info, manifest)
        for folder, manifest in ((folder, read_manifest(folder)) for folder in local)
        for info in manifest.shards
    ]
    known = read_note(run / NOTE)
    note, new = known.copy(), []
    for path, info, manifest in listed:
        verdict = known.get(str(path))
        if not verdict or verdict[:-1] != [*_status(path), info.sha256]:
            new.append((path, info, manifest))
    with ThreadPoolExecutor(min(THREADS, usable_cpus())) as executor:
        found = executor.map(lambda one: _problem(*one), new)
        for (path, info, _), problem in zip(new, found, strict=True):
            note[str(path)] = [*_status(path), info.sha256, problem]
    write_json(run / NOTE, note)
    problems = [problem for path, *_ in listed if (problem := note[str(path)][-1])]
    if problems and not skip:
        raise ShardError(
            f"{len(problems)} of {len(listed)} shards are damaged:\n  "
            + "\n  ".join(problems)
            + "\ndelete them and run jobs.prepare again, which makes the missing ones anew; "
            "faults.damaged_shard=skip trains without their samples"
        )
    for problem in problems:
        say(f"left out: {problem}")


def known_damaged(run: Path) -> frozenset[str]:
    """Paths of the shards that `check_shards` found damaged and that have not changed since."""
    return frozenset(
        path
        for path, (*status, _, problem) in read_note(run / NOTE).items()
        if problem and status == _status(Path(path))
    )


def truncated(folders: Iterable[str]) -> list[str]:
    """Local shards that are shorter than their manifest says; reading them ends a process."""
    found = []
    for folder in (folder for folder in folders if not is_url(folder)):
        with suppress(ShardError):  # of a folder without a manifest, which others report
            for info in read_manifest(folder).shards:
                path = Path(folder, info.name)
                size = path.stat().st_size if path.exists() else 0
                if size < info.bytes:
                    found.append(f"{path}: {size} bytes, the manifest says {info.bytes}")
    return found


def _problem(path: Path, info: ShardInfo, manifest: Manifest) -> str:
    """What is wrong with a shard; empty if nothing is."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return f"{path}: can't be read ({error.strerror})"
    try:
        check_bytes(path, data, info)
        batch = open_batch(path, pa.py_buffer(data), info, manifest)
    except ShardError as error:
        return str(error)
    for name in ("input_ids", "masked_ids"):
        ids = batch[name].values.to_numpy()
        if len(ids) and ids.max() >= manifest.vocab_size:
            return (
                f"{path}: {name} holds {ids.max()}, and the vocabulary has "
                f"{manifest.vocab_size} entries"
            )
    return ""


def _status(path: Path) -> list[int]:
    """Size and time of a file, by which a change is noticed; zeros if there is none."""
    try:
        status = path.stat()
    except OSError:
        return [0, 0]
    return [status.st_size, status.st_mtime_ns]


def moved_note(note: Note, folders: Mapping[str, str]) -> Note:
    """The note for copies of shards, by the folder of each copied one; they keep their times."""
    moved = {}
    for path, verdict in note.items():
        folder, _, name = path.rpartition("/")
        if folder in folders:
            moved[f"{folders[folder]}/{name}"] = verdict
    return moved
