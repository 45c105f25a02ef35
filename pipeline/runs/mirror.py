"""A run whose storage is in an object store: a local folder, and its copy that outlives the node.

The command that works on the run holds the run's lock in the store. It first downloads what the
store has and this node does not, works on the local folder, and uploads what has changed every few
seconds and at its end. One that only reads the run downloads without the lock.

Files named in MARKERS are uploaded after the files that they vouch for, and deleted before them. So
a checkpoint that has its marker in the store is whole, and no rename is needed there.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from pipeline.background import repeated
from pipeline.errors import ConfigError, NezhaError, StorageError
from pipeline.paths import RunPaths
from pipeline.process import identity, is_dead
from pipeline.settings.config import Config
from pipeline.storage import filesystem, write_whole

PUSH_SECONDS = 10.0
BEAT_SECONDS = 5.0
STALE_SECONDS = 30.0
"""A lock that has not changed for so long belongs to a command that is gone."""
SETTLE_SECONDS = 1.0
"""Of two commands that take a lock at the same time, the last writer has it after that time."""
CONTACT_SECONDS, RETRY_SECONDS = 20.0, 120.0
"""How long the first contact is tried again, and how long downloads and the last upload."""
MARKERS = ("COMPLETE", "manifest.json")
INDEX = ".mirror.json"
LOCK, HOLDER = "lock.json", "holder"
"""Files in the store: who works on the run, and who did so last."""
NOT_COPIED = ("ray", "STOP", "logs", LOCK, HOLDER)
"""Files and folders of a run that are not copied, beside hidden and temporary files. Each node
writes its `logs` into the store itself."""

logger = logging.getLogger(__name__)
Stamp = list[Any]


@contextmanager
def held(config: Config, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the run in its object store, and keep its copy there; nothing for a local storage.

    Args:
        say: takes a line if something takes time.

    Raises:
        ConfigError: another command works on the run, or several processes would hold it.
        StorageError: the store does not answer, or did not take the last changes.
    """
    if "://" not in config.run.storage:
        yield
        return
    mirror = _mirror_of(config)
    with _lock(mirror, say) as lost, _pushing(mirror, lost):
        yield


def fetch(config: Config) -> None:
    """Make the local folder as new as the object store, for reading; nothing for a local storage.

    Another command may work on the run meanwhile. If this node worked on it last, its folder is the
    newest as it is.

    Raises:
        StorageError: the store does not answer.
    """
    if "://" in config.run.storage:
        mirror = _mirror_of(config)
        _retry(mirror.refresh, "could not be read", mirror.url, CONTACT_SECONDS)


def add(config: Config, path: Path) -> None:
    """Upload a file that a command made in a run which it does not hold."""
    if "://" in config.run.storage:
        mirror = _mirror_of(config)
        name = path.relative_to(mirror.folder).as_posix()
        _retry(lambda: mirror.write(name, path.read_bytes()), f"did not take {path}", mirror.url)


def _mirror_of(config: Config) -> Mirror:
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ConfigError(
            f"run.storage={config.run.storage}: the processes of torchrun need a folder that all "
            "of them see; jobs.pretrain takes a URL"
        )
    url = f"{config.run.storage.rstrip('/')}/{config.run.name}"
    return Mirror(RunPaths.of(config).run, url)


class Mirror:
    """A local folder and its copy at a URL."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.system, self._inner = filesystem(url)
        self._sent: dict[str, tuple[Stamp | None, Stamp]] = {}
        """Of each file in the store: its stamp here when both were equal, and its stamp there."""
        self._token = uuid.uuid4().hex

    def pull(self) -> None:
        """Make the local folder as new as the store, and become the store's last holder."""
        with self._alone():
            self._download()
            self._write_index()
            self.write(HOLDER, self._token.encode())

    def refresh(self) -> None:
        """Make the local folder as new as the store, which keeps its last holder."""
        if self._list_store():
            with self._alone():
                if not self._download():
                    self._write_index()  # with a token that the store does not get

    def _download(self) -> bool:
        """Get what differs from the store; returns whether this node held the store last.

        Then the local folder is as new, or newer: a command that was killed had not uploaded its
        last changes. The node keeps its token, so that the folder counts as the newest also if this
        call fails halfway and is repeated.
        """
        there, here = self._list_store(), self._list_folder()
        last, index = self._read_index()
        same = {
            name
            for name, (local, stored) in index.items()
            if here.get(name) == local and there.get(name) == stored
        }
        held_last = last is not None and self.read(HOLDER) == last.encode()
        if held_last:
            self._token = str(last)
        else:
            for name in here.keys() - same:
                (self.folder / name).unlink()
            for base, _, _ in os.walk(self.folder, topdown=False):
                with suppress(OSError):  # of those that hold something
                    if base != str(self.folder):  # which is locked
                        os.rmdir(base)
            for name in sorted(there.keys() - same):
                if _vouched(name, there):
                    target = self.folder / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    self.system.get_file(self._at(name), str(target))
                    same.add(name)
            here = self._list_folder()
        # What differs is uploaded by the next push; what is only there is deleted by it.
        self._sent = {
            name: (here.get(name) if name in same else None, stamp) for name, stamp in there.items()
        }
        return held_last

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Of the commands of this node, one at a time downloads."""
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def push(self) -> None:
        """Upload what has changed, and delete what is gone here."""
        here = self._list_folder()
        changed = {name for name, stamp in here.items() if _local(self._sent.get(name)) != stamp}
        if not changed and here.keys() == self._sent.keys():
            return
        # A marker must not vouch for files that are being replaced.
        touched = {os.path.dirname(name) for name in changed | (self._sent.keys() - here.keys())}
        markers = {name for name in self._sent if _is_marker(name)}
        for name in sorted(name for name in markers if os.path.dirname(name) in touched):
            self._delete(name)
        for name in sorted(here, key=_is_marker):
            if name in changed or name not in self._sent:
                self._upload(name, here[name])
        for name in sorted(self._sent.keys() - here.keys()):
            self._delete(name)
        self._write_index()

    def read(self, name: str) -> bytes | None:
        """A file in the store; None if there is none."""
        try:
            self.system.invalidate_cache()
            return self.system.cat_file(self._at(name))
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Write a file in the store."""
        self.system.pipe_file(self._at(name), data)

    def delete(self, name: str) -> None:
        """Delete a file in the store."""
        self.system.rm_file(self._at(name))

    def _upload(self, name: str, stamp: Stamp) -> None:
        try:
            self.system.put_file(str(self.folder / name), self._at(name))
        except FileNotFoundError:
            if (self.folder / name).exists():
                raise
            return  # it was deleted meanwhile; the next push sees that
        self._sent[name] = (stamp, _stamp(self.system.info(self._at(name))))

    def _delete(self, name: str) -> None:
        with suppress(FileNotFoundError):  # of a deletion whose answer was lost
            self.delete(name)
        del self._sent[name]

    def _at(self, name: str) -> str:
        return f"{self._inner}/{name}"

    def _list_store(self) -> dict[str, Stamp]:
        self.system.invalidate_cache()
        try:
            found = self.system.find(self._inner, detail=True)
        except FileNotFoundError:
            return {}
        names = {path.removeprefix(f"{self._inner}/"): info for path, info in found.items()}
        return {name: _stamp(info) for name, info in names.items() if _is_copied(name)}

    def _list_folder(self) -> dict[str, Stamp]:
        stamps: dict[str, Stamp] = {}
        for base, folders, files in os.walk(self.folder):
            inner = Path(base).relative_to(self.folder)
            folders[:] = [name for name in folders if _is_copied((inner / name).as_posix())]
            for name in ((inner / file).as_posix() for file in files):
                if _is_copied(name):
                    try:
                        status = (self.folder / name).stat()
                    except FileNotFoundError:
                        continue
                    stamps[name] = [status.st_size, status.st_mtime_ns]
        return stamps

    def _read_index(self) -> tuple[str | None, dict[str, tuple[Stamp | None, Stamp]]]:
        """The token of the last command that worked here, and what it had sent."""
        try:
            read = json.loads((self.folder / INDEX).read_text("utf-8"))
        except (OSError, ValueError):
            return None, {}
        return read["holder"], {name: tuple(stamps) for name, stamps in read["sent"].items()}

    def _write_index(self) -> None:
        index = {"holder": self._token, "sent": self._sent}
        write_whole(str(self.folder / INDEX), json.dumps(index).encode())


@contextmanager
def _pushing(mirror: Mirror, lost: threading.Event) -> Iterator[None]:
    """Pull; push every PUSH_SECONDS in the background, and at the end."""
    _retry(mirror.pull, "could not be read", mirror.url)

    def push() -> None:
        if lost.is_set():
            return
        try:
            mirror.push()
        except Exception as error:  # the next one, or the last one, may succeed
            logger.warning("%s: an upload failed and is tried again: %s", mirror.url, error)

    def finish() -> None:
        if lost.is_set():
            raise StorageError(
                f"{mirror.url}: another command has taken this run over, because no sign of life "
                f"of this one reached the store; what is newer here is in {mirror.folder}"
            )
        _retry(
            mirror.push, f"did not take the newest files, which are in {mirror.folder}", mirror.url
        )

    try:
        with repeated(push, PUSH_SECONDS, "mirror"):
            yield
    except BaseException:
        try:
            finish()
        except StorageError as error:  # the first error says more, also by its exit status
            logger.error("%s", error)
        raise
    finish()


def _retry(action: Callable[[], None], what: str, url: str, seconds: float = RETRY_SECONDS) -> None:
    deadline, pause = time.monotonic() + seconds, 1.0
    while True:
        try:
            return action()
        except NezhaError:
            raise
        except Exception as error:  # stores raise errors of many types
            if time.monotonic() + pause > deadline:
                raise StorageError(f"{url} {what}: {type(error).__name__}: {error}") from error
            logger.warning("%s: %s; trying again", url, error)
        time.sleep(pause)
        pause = min(2 * pause, 15.0)


@contextmanager
def _lock(mirror: Mirror, say: Callable[[str], None]) -> Iterator[threading.Event]:
    """Hold the run's lock in the store; yields an event that is set if another command took it."""
    own = {**identity(), "token": uuid.uuid4().hex}
    lost, beats = threading.Event(), count(1)

    def holder() -> dict[str, Any]:
        data = mirror.read(LOCK)
        return json.loads(data) if data else {}

    def write(beat: int) -> None:
        mirror.write(LOCK, json.dumps({**own, "beat": beat}).encode())

    def acquire() -> None:
        _wait_until_gone(holder, mirror.url, say)
        write(0)

    def confirm() -> None:
        if holder().get("token") != own["token"]:
            raise ConfigError(f"{mirror.url}: another command has just begun to work on this run")

    _retry(acquire, "cannot be used", mirror.url, CONTACT_SECONDS)
    time.sleep(SETTLE_SECONDS)
    _retry(confirm, "cannot be used", mirror.url, CONTACT_SECONDS)

    def beat() -> None:
        try:
            if holder().get("token") == own["token"]:
                write(next(beats))
            else:
                lost.set()
        except Exception as error:  # the store may come back
            logger.warning("%s: no sign of life could be written: %s", mirror.url, error)

    try:
        with repeated(beat, BEAT_SECONDS, "store-lock"):
            yield lost
    finally:
        if not lost.is_set():
            try:
                mirror.delete(LOCK)
            except Exception as error:
                logger.warning("%s: the lock could not be deleted: %s", mirror.url, error)


def _wait_until_gone(
    holder: Callable[[], dict[str, Any]], url: str, say: Callable[[str], None]
) -> None:
    """Return when nobody holds the lock; raise ConfigError if its holder gives signs of life."""
    first, deadline = holder(), time.monotonic() + STALE_SECONDS
    if not first or is_dead(first):
        return
    say(f"waiting up to {STALE_SECONDS:.0f} s for a sign of life of {first['host']}")
    while time.monotonic() < deadline:
        time.sleep(min(1.0, BEAT_SECONDS))
        now = holder()
        if not now:
            return
        if now != first:
            raise ConfigError(
                f"another command works on {url}: process {now['pid']} on {now['host']}; wait for "
                "its end, or choose another run.name"
            )


def _stamp(info: dict[str, Any]) -> Stamp:
    """Size and time of a file in a store; file systems name the time differently."""
    times = (info.get(key) for key in ("mtime", "LastModified", "updated", "created"))
    return [info["size"], str(next(filter(None, times), ""))]


def _local(sent: tuple[Stamp | None, Stamp] | None) -> Stamp | None:
    return sent and sent[0]


def _is_marker(name: str) -> bool:
    return os.path.basename(name) in MARKERS


def _vouched(name: str, there: dict[str, Stamp]) -> bool:
    """Whether a file of a checkpoint in the store belongs to a complete one."""
    folder = os.path.dirname(name)
    return (
        not os.path.basename(folder).startswith("checkpoint_") or f"{folder}/{MARKERS[0]}" in there
    )


def _is_copied(name: str) -> bool:
    """Whether a file or folder of a run, named from the run's folder, is part of the copy."""
    parts = name.split("/")
    if parts[-1].startswith(".") or name.endswith(".tmp"):
        return False
    return parts[0] not in NOT_COPIED
