"""Run folders on a disk of the command's node, for processes on nodes that do not see that disk.

A Ray actor on the command's node calls functions there. Files are copied through it in pieces, to
and from a folder in `run.scratch`, or the temporary folder, that stands for the run's folder here.
"""

import fcntl
import functools
import os
import shutil
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.cluster.ray_cluster import may_have_other_nodes
from pipeline.files.disk import OWN, Disk
from pipeline.files.file_lock import file_lock, locked
from pipeline.files.hashing import short_hash
from pipeline.paths import temporary_folder

PIECE_BYTES = 16 << 20
KEPT_SECONDS = 7 * 86400.0
"""Copies stay on a node for the next start, if that comes in time."""
THREADS = 16
"""Calls that the actor handles at a time."""
Listed = list[tuple[str, int, int]]
T = TypeVar("T")


class Offer(NamedTuple):
    """Where a run's folder is; the command makes it, and gives it to processes on other nodes."""

    folder: str
    token: str
    """A file in the folder: who sees it, sees the folder."""
    caller: Any
    """The actor on that node; None where the cluster has no other node."""
    scratch: str = ""
    """Folder for copies; empty: one in the temporary folder."""


@contextmanager
def offered(folder: Path, scratch: str = "", place: str = "") -> Iterator[Offer]:
    """Offer a folder of this node to processes on others, as long as the block runs.

    `place`: folder in it for the token.
    """
    name = Path(place, f".seen-{uuid.uuid4().hex}")
    token = folder / name
    token.parent.mkdir(parents=True, exist_ok=True)
    job = ray.get_runtime_context().get_job_id()
    caller = _caller(job) if may_have_other_nodes() else None
    token.touch()
    try:
        yield Offer(str(folder), str(name), caller, scratch)
    finally:
        with suppress(OSError):
            token.unlink()


@functools.cache
def _caller(job: str) -> Any:
    """The actor on this node. This process holds it, so it lives until the job ends."""
    there = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(num_cpus=0, max_restarts=-1, scheduling_strategy=there)(_Caller)
    return actor.options(max_concurrency=THREADS).remote()


@contextmanager
def offered_reading() -> Iterator[Offer]:
    """Offer the files of this node for reading, to processes on nodes that do not have them.

    No other node can see the offered folder, so each node compares every file with its own copy
    before it uses it.
    """
    with offered(temporary_folder("offers")) as offer:
        yield offer


def is_seen(offer: Offer) -> bool:
    """Whether this process sees the folder itself, as all do where there is no other node."""
    # The token is gone when a task starts after the command has ended with an error.
    return offer.caller is None or Path(offer.folder, offer.token).exists()


def copies(offer: Offer) -> Path:
    """The folder on this node that stands for an offered one."""
    # A folder of its own, because what is old in it is removed.
    own = temporary_folder("nodes")
    root = Path(offer.scratch, own.name) if offer.scratch else own
    return root / short_hash(offer.folder) / Path(offer.folder).name


def disk_of(offer: Offer) -> Disk:
    """The disk that holds an offered folder, for this process."""
    return OWN if is_seen(offer) else RemoteDisk(offer)


class RemoteDisk(Disk):
    """A disk of the command's node.

    Paths below `here` stand for those below the offered folder, in arguments and in results. Other
    paths are those of the command's node.
    """

    remote = True

    def __init__(self, offer: Offer) -> None:
        self._there, self.here = Path(offer.folder), copies(offer)
        self.root = self.here.parents[1]
        """Folder of all copies on this node."""
        self._used: set[Path] = set()
        self._use(self.here.parent)
        self.here.mkdir(exist_ok=True)
        _remove_unused(self.root)
        self._actor = offer.caller

    def call(self, function: Callable[..., T], *arguments: Any, **named: Any) -> T:
        arguments = tuple(_moved(each, self.here, self._there) for each in arguments)
        named = {name: _moved(each, self.here, self._there) for name, each in named.items()}
        return _moved(
            self._get(self._submit(function, *arguments, **named)), self._there, self.here
        )

    def fetch(self, path: Path) -> Path:
        source, target = self.there(path), self._copy_of(path)
        if source == path and self.sees(path):
            return path
        if target.parent.parent == self.root:
            self._use(target.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        # Of the processes of a node one copies; the others wait, and then find all in place.
        with file_lock(target.parent / f".{target.name}.lock"):
            listed = self._get(self._submit(_list, source))
            for name, size, modified in listed:
                self._fetch_file(source / name, target / name, size, modified)
            for name in {name for name, _, _ in _list(target)} - {name for name, _, _ in listed}:
                (target / name).unlink()  # of an older copy
        return target

    def sees(self, path: Path) -> bool:
        """Whether this node has the same file or folder there, or has it alone."""
        own = _list(path)
        there = self._get(self._submit(_list, path)) if own else []
        return own != [] and there in (own, [])

    def own(self, path: Path) -> Path:
        return self.here / path.relative_to(self._there)

    def there(self, path: Path) -> Path:
        return _moved(path, self.here, self._there)

    def send(self, path: Path) -> None:
        target = self.there(path)
        unfinished = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
        try:
            for name, _, _ in _list(path):
                self._send_file(path / name, unfinished / name)
            self._get(self._submit(_replace, unfinished, target))
        except BaseException:
            with suppress(OSError):
                self._get(self._submit(_remove, unfinished))
            raise
        self.drop(path)

    def drop(self, path: Path) -> None:
        if path.is_relative_to(self.root):
            _remove(path)

    def _use(self, folder: Path) -> None:
        """Keep a folder of `root` from being removed as long as this object lives."""
        if folder in self._used:
            return
        lock = None
        while lock is None:
            folder.mkdir(parents=True, exist_ok=True)
            lock = locked(folder, fcntl.LOCK_SH)
        os.utime(folder)
        weakref.finalize(self, os.close, lock)
        self._used.add(folder)

    def _copy_of(self, path: Path) -> Path:
        if path.is_relative_to(self.here):
            return path
        return self.root / short_hash(str(path)) / path.name

    def _send_file(self, source: Path, target: Path) -> None:
        waiting = self._submit(_write, target, 0, b"")  # a file may be empty
        with source.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                self._get(waiting)
                waiting = self._submit(_write, target, file.tell() - len(piece), piece)
        self._get(waiting)
        self._get(self._submit(_flush, target))

    def _fetch_file(self, source: Path, target: Path, size: int, modified: int) -> None:
        status = target.stat() if target.exists() else None
        if status and (status.st_size, status.st_mtime_ns) == (size, modified):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(f".{target.name}.tmp")
        with unfinished.open("wb") as file:
            ahead = self._submit(_read, source, 0)
            while piece := self._get(ahead):
                ahead = self._submit(_read, source, file.tell() + len(piece))
                file.write(piece)
            if file.tell() != size:
                raise OSError(f"{source} was changed while it was copied from its node; try again")
        os.utime(unfinished, ns=(modified, modified))
        unfinished.replace(target)

    def _submit(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        return self._actor.call.remote(functools.partial(function, *arguments, **named))

    def _get(self, asked: Any) -> Any:
        try:
            return ray.get(asked)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            raise OSError(f"the node of the command does not answer: {error}") from error


class _Caller:
    """The actor on the command's node."""

    def call(self, function: Callable[[], Any]) -> Any:
        return function()


def _remove_unused(root: Path) -> None:
    """Remove folders that no process uses, and that none has begun to use for KEPT_SECONDS."""
    for each in root.iterdir():
        with suppress(OSError):
            if time.time() - each.stat().st_mtime > KEPT_SECONDS:
                lock = locked(each, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if lock is not None:
                    _remove(each)
                    os.close(lock)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _moved(value: Any, old: Path, new: Path) -> Any:
    """A path below one folder as the same path below another; any other value as it is."""
    if isinstance(value, Path) and value.is_relative_to(old):
        return new / value.relative_to(old)
    return value


def _list(path: Path) -> Listed:
    """Files of a folder, by their paths in it, or the file itself: names, bytes and times."""
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    stats = [(file, file.stat()) for file in files]
    return [(str(file.relative_to(path)), s.st_size, s.st_mtime_ns) for file, s in stats]


def _read(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(PIECE_BYTES)


def _write(path: Path, offset: int, piece: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("r+b" if offset else "wb") as file:
        file.seek(offset)
        file.write(piece)


def _flush(path: Path) -> None:
    """Wait until a file is on the disk."""
    with path.open("ab") as file:
        os.fsync(file.fileno())


def _replace(unfinished: Path, target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    unfinished.replace(target)
