"""Shards of an object store, kept on the local disk up to a size limit."""

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
_PIECE = 1 << 20


class ShardCache:
    """A folder of shards by content hash, shared by all processes of a node.

    The least recently used go first when the limit is reached; on Linux a process that still maps
    one keeps it until it lets go.
    """

    def __init__(self, folder: str = "", limit_gigabytes: float = 50.0) -> None:
        self.folder = Path(folder or Path(tempfile.gettempdir()) / "nezha-shards")
        self.limit_bytes = int(limit_gigabytes * 1e9)
        self._asked: set[str] = set()
        self._waiting: queue.SimpleQueue[tuple[str, ShardInfo]] = queue.SimpleQueue()
        self._fetcher: threading.Thread | None = None

    def locate(self, folder: str, shard: ShardInfo) -> Path:
        """A local file with the shard's bytes, fetched and checked if it is not there yet.

        Raises:
            ShardError: it can't be fetched, has another hash than the manifest says, or is larger
                than the limit.
        """
        if "://" not in folder:
            return Path(folder) / shard.name
        if shard.bytes > self.limit_bytes:
            raise ShardError(
                f"{folder}/{shard.name}: {shard.bytes} bytes are over the limit of the shard "
                f"cache, {self.limit_bytes}; raise the limit"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(shard)
        with contextlib.suppress(FileNotFoundError):
            # Without the lock: others may be fetching.
            os.utime(path)
            return path
        with (self.folder / "lock").open("w") as lock:
            # One process of a node fetches, the others find it done.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():
                os.utime(path)
            else:
                self._make_room(shard.bytes)
                self._fetch(f"{folder}/{shard.name}", shard, path)
        return path

    def prefetch(self, shards: Iterable[tuple[str, ShardInfo]]) -> None:
        """Fetch shards, each with its folder, in the background.

        One that can't be fetched raises where it is used: `locate` tries again.
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
                    while piece := source.read(_PIECE):
                        digest.update(piece)
                        target.write(piece)
            except FileNotFoundError:
                problem = "listed in the manifest, but gone"
                break
            except OSError as error:
                problem = str(error)
                continue
            if digest.hexdigest() == shard.sha256:
                temporary.replace(path)
                return
            problem = "its bytes are not those that the manifest lists"
        temporary.unlink(missing_ok=True)
        raise ShardError(f"{url}: {problem}; look at the store, or run jobs.prepare again")
