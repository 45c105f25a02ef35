"""The copy of a run's folder in an object store.

A file named in MARKERS says that the other files of its folder are whole. It is uploaded after them
and deleted before them. So a checkpoint that has its marker in the store is whole, and no rename is
needed there.
"""

import json
import logging
import os
import shutil
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.files.file_lock import file_lock
from pipeline.files.storage import write_json
from pipeline.files.store import Store
from pipeline.files.store_lock import FILE

MARKERS = ("COMPLETE", "manifest.json")
INDEX = ".mirror.json"
HOLDER = "holder"
"""File in the store: who worked on the run last."""
NOT_COPIED = ("ray", "STOP", "logs", FILE, HOLDER)
"""Files and folders of a run that are not copied, beside hidden and temporary files. Each node
writes its `logs` into the store itself."""

logger = logging.getLogger(__name__)
Stamp = list[Any]


class StoreCopy(Store):
    """A local folder and its copy at a URL."""

    def __init__(self, folder: Path, url: str) -> None:
        super().__init__(url)
        self.folder = folder
        self._sent: dict[str, tuple[Stamp | None, Stamp]] = {}
        """Of each file in the store: its stamp here when both were equal, and its stamp there."""
        self._token = uuid.uuid4().hex
        self._lock = folder.with_name(f".{folder.name}.lock")
        """A file, as NFS locks no folders."""
        self._kept: set[str] = set()
        """Folders of files in the store that it did not delete."""

    def pull(self) -> None:
        """Make the local folder as new as the store, and become the store's last holder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with file_lock(self._lock):
            self._download()
            self._write_index()
            self.write(HOLDER, self._token.encode())

    def refresh(self) -> bool:
        """Make the local folder as new as the store, which keeps its last holder.

        Where the store has nothing, the local folder stays as it is; returns whether it has.
        """
        if not self._list_store():
            return False
        self.folder.mkdir(parents=True, exist_ok=True)
        with file_lock(self._lock):
            if not self._download():
                self._write_index()  # with a token that the store does not get
        return True

    def _download(self) -> bool:
        """Get what differs from the store; returns whether this node held the store last.

        If it did, nothing is downloaded: the local folder is as new, or newer, as a command that
        was killed had not uploaded its last changes. The node keeps its token, so that the folder
        counts as the newest also if this call fails halfway and is repeated.
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
                    if base != str(self.folder):  # which takes the index
                        os.rmdir(base)
            for name in sorted(there.keys() - same):
                if _is_complete(name, there):
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

    def push(self) -> None:
        """Upload what has changed, and delete what is gone here."""
        here = self._list_folder()
        changed = {
            name for name, stamp in here.items() if self._sent.get(name, (None,))[0] != stamp
        }
        if not changed and here.keys() == self._sent.keys():
            return
        # A marker must not say that files are complete while they are being replaced.
        touched = {os.path.dirname(name) for name in changed}
        markers = {name for name in self._sent if _is_marker(name)}
        for name in sorted(name for name in markers if os.path.dirname(name) in touched):
            self._delete(name)
        for name in sorted(here, key=_is_marker):
            if name in changed or name not in self._sent:
                self._upload(name, here[name])
        gone = sorted(self._sent.keys() - here.keys(), key=lambda name: not _is_marker(name))
        for folder in sorted({os.path.dirname(name) for name in gone}):
            self._remove(folder, [name for name in gone if os.path.dirname(name) == folder])
        self._write_index()

    def _remove(self, folder: str, names: list[str]) -> None:
        """Delete files of a folder in this order; tell once of a folder in which one stays."""
        try:
            for name in names:
                self._delete(name)
        except Exception as error:  # a store may keep files for a time, or refuse all deletions
            if folder not in self._kept:
                logger.warning("%s/%s: not deleted, so it stays: %s", self.url, folder, error)
            self._kept.add(folder)

    def _upload(self, name: str, stamp: Stamp) -> None:
        try:
            # Not `put_file`, which asks for the bucket: rights may be those of a folder in it.
            with (
                (self.folder / name).open("rb") as file,
                self.system.open(self._at(name), "wb") as target,
            ):
                shutil.copyfileobj(file, target, 1 << 22)
        except FileNotFoundError:
            if (self.folder / name).exists():
                raise
            return  # it was deleted meanwhile; the next push sees that
        self._sent[name] = (stamp, _stamp(self.system.info(self._at(name))))

    def _delete(self, name: str) -> None:
        with suppress(FileNotFoundError):  # of a deletion whose answer was lost
            self.delete(name)
        del self._sent[name]

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
        write_json(self.folder / INDEX, index)


def _stamp(info: dict[str, Any]) -> Stamp:
    """Size and time of a file in a store; file systems name the time differently."""
    times = (info.get(key) for key in ("mtime", "LastModified", "updated", "created"))
    return [info["size"], str(next(filter(None, times), ""))]


def _is_marker(name: str) -> bool:
    return os.path.basename(name) in MARKERS


def _is_complete(name: str, there: dict[str, Stamp]) -> bool:
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
