"""A cache on the local disk for shards of object stores, with a size limit."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import queue
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path

from pipeline.corpus.shards.format import ShardInfo
from pipeline.errors import ShardError
from pipeline.storage import filesystem

_ATTEMPTS = 3
_READ_BYTES = 1 << 20


class ShardCache:
    """A folder of shards, named by their content's hash, that all processes of a node share.

    When the limit is reached, the least recently used shards are deleted. On Linux, a process that
    has mapped a deleted shard can read it until it unmaps it.
    """

    def __init__(self, folder: str = "", limit_gigabytes: float = 50.0) -> None:
        self.folder = Path(folder or Path(tempfile.gettempdir()) / "nezha-shards")
        self.limit_bytes = int(limit_gigabytes * 1e9)
        self._asked: set[str] = set()
        self._waiting: queue.SimpleQueue[tuple[str, ShardInfo]] = queue.SimpleQueue()
        self._fetcher: threading.Thread | None = None

    def locate(self, folder: str, shard: ShardInfo) -> Path:
        """The local file of a shard, which is fetched and checked if it is not there yet.

        Raises:
            ShardError: it can't be fetched, its hash is not that of the manifest, or it is larger
                than the limit.
        """
        if "://" not in folder:
            return Path(folder) / shard.name
        if shard.bytes > self.limit_bytes:
            raise ShardError(
                f"{folder}/{shard.name}: {shard.bytes} bytes exceed the limit of the shard cache, "
                f"{self.limit_bytes}; raise train.shard_cache_gigabytes"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(shard)
        with contextlib.suppress(FileNotFoundError):
            # This needs no lock, so it does not wait while others fetch.
            os.utime(path)
            return path
        with (self.folder / "lock").open("w") as lock:
            # One process of the node fetches the shard; the others wait and then find it.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():
                os.utime(path)
            else:
                self._make_room(shard.bytes)
                self._fetch(f"{folder}/{shard.name}", shard, path)
        return path

    def prefetch(self, shards: Iterable[tuple[str, ShardInfo]]) -> None:
        """Fetch shards, each given with its folder, in the background.

        A failure is not raised here: `locate` tries again when the shard is used.
        """
        for folder, shard in shards:
            known = shard.sha256 in self._asked or self._path(shard).exists()
            if "://" in folder and not known:
                self._asked.add(shard.sha256)
                self._waiting.put((folder, shard))
        if self._asked and not self._fetcher:
            self._fetcher = threading.Thread(target=self._fetch_waiting, daemon=True)
            self._fetcher.start()

    def _fetch_waiting(self) -> None:
        while True:
            folder, shard = self._waiting.get()
            with contextlib.suppress(ShardError, OSError):
                self.locate(folder, shard)
            self._asked.discard(shard.sha256)

    def _path(self, shard: ShardInfo) -> Path:
        return self.folder / f"{shard.sha256}.arrow"

    def _make_room(self, needed: int) -> None:
        files = sorted(self.folder.glob("*.arrow"), key=lambda file: file.stat().st_mtime_ns)
        held = sum(file.stat().st_size for file in files)
        for file in files:
            if held + needed <= self.limit_bytes:
                return
            held -= file.stat().st_size
            file.unlink()

    def _fetch(self, url: str, shard: ShardInfo, path: Path) -> None:
        temporary = path.with_suffix(".part")
        problem = ""
        for _ in range(_ATTEMPTS):
            digest = hashlib.sha256()
            try:
                system, inner = filesystem(url)
                with system.open(inner, "rb") as source, temporary.open("wb") as target:
                    while data := source.read(_READ_BYTES):
                        digest.update(data)
                        target.write(data)
            except FileNotFoundError:
                problem = "listed in the manifest but missing"
                break
            except OSError as error:
                problem = str(error)
                continue
            if digest.hexdigest() == shard.sha256:
                temporary.replace(path)
                return
            problem = "its bytes are not those of the manifest"
        temporary.unlink(missing_ok=True)
        raise ShardError(f"{url}: {problem}; check the object store, or run jobs.prepare again")
