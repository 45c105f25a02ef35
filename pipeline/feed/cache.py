"""Shards of an object store, kept on the local disk up to a size limit."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from pathlib import Path

import fsspec

from pipeline.corpus.shards import ShardInfo
from pipeline.errors import ShardError

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
        path = self.folder / f"{shard.sha256}.arrow"
        with (self.folder / "lock").open("w") as lock:
            # One process of a node fetches, the others find it done.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():
                os.utime(path)
            else:
                self._make_room(shard.bytes)
                self._fetch(f"{folder}/{shard.name}", shard, path)
        return path

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
                with fsspec.open(url, "rb") as source, temporary.open("wb") as target:
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
