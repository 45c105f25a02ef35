"""A cache on the local disk for shards of object stores, with a size limit."""

import contextlib
import hashlib
import os
import queue
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from tenacity import (
    Retrying,
    retry_if_not_exception_type,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from pipeline.corpus.shards.format import ShardInfo
from pipeline.corpus.shards.reader import UnreachableShard
from pipeline.corpus.shards.shard_file import check_bytes
from pipeline.errors import ShardError
from pipeline.files.file_lock import file_lock
from pipeline.files.storage import filesystem
from pipeline.files.urls import is_url
from pipeline.paths import temporary_folder

_ATTEMPTS = 5
_FIRST_WAIT_SECONDS = 0.5
"""Before the second attempt; each later wait is twice as long, and a random time is added."""
_ABANDONED_SECONDS = 3600
"""Age at which an unfinished file belongs to a process that was killed."""
_READ_BYTES = 1 << 20


class ShardCache:
    """A folder of shards, named by their content's hash, that a user's processes on a node share.

    When the limit is reached, the least recently used shards are deleted. On Linux, a process that
    has mapped a deleted shard can read it until it unmaps it.
    """

    def __init__(self, folder: str = "", limit_gigabytes: float = 50.0) -> None:
        self.folder = Path(folder or temporary_folder("shards"))
        self.limit_bytes = int(limit_gigabytes * 1e9)
        self._asked: set[str] = set()
        self._checked: set[str] = set()
        self._waiting: queue.SimpleQueue[tuple[str, ShardInfo]] = queue.SimpleQueue()
        self._fetcher: threading.Thread | None = None

    def locate(self, folder: str, shard: ShardInfo) -> Path:
        """The local file of a shard, which is fetched and checked if it is not there yet.

        Raises:
            ShardError: it is missing, or its hash is not that of the manifest.
            UnreachableShard: it can't be fetched, or it is larger than the limit.
        """
        if not is_url(folder):
            return Path(folder) / shard.name
        if shard.bytes > self.limit_bytes:
            raise UnreachableShard(
                f"{folder}/{shard.name}: {shard.bytes} bytes exceed the limit of the shard cache, "
                f"{self.limit_bytes}; raise train.shard_cache_gigabytes"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(shard)
        if self._is_whole(path, shard):  # this needs no lock, so it does not wait for others
            return path
        with file_lock(self.folder / f"lock-{shard.sha256[:2]}"):
            # One process of the node fetches the shard; the others wait and then find it.
            if not self._is_whole(path, shard):
                self._fetch(f"{folder}/{shard.name}", shard, path)
                self._checked.add(shard.sha256)
        return path

    def prefetch(self, shards: Iterable[tuple[str, ShardInfo]]) -> None:
        """Fetch shards, each given with its folder, in the background.

        A failure is not raised here: `locate` tries again when the shard is used.
        """
        for folder, shard in shards:
            known = shard.sha256 in self._asked or self._path(shard).exists()
            if is_url(folder) and not known:
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

    def _is_whole(self, path: Path, shard: ShardInfo) -> bool:
        """Whether a shard is there; its hash is compared when this process first asks for it."""
        try:
            os.utime(path)
            if shard.sha256 not in self._checked:
                check_bytes(path, path.read_bytes(), shard)
                self._checked.add(shard.sha256)
        except FileNotFoundError:
            return False
        except ShardError:
            path.unlink(missing_ok=True)
            return False
        return True

    def _make_room(self, part: Path, needed: int) -> None:
        """Delete shards until there is room for one more, and reserve it with an empty file."""
        part.unlink(missing_ok=True)  # a process that was killed may have left it
        sizes = {}
        for file in [*self.folder.glob("*.arrow"), *self.folder.glob("*.part")]:
            with contextlib.suppress(FileNotFoundError):
                status = file.stat()
                sizes[file] = status.st_size, status.st_mtime
        held = sum(size for size, _ in sizes.values())
        for file in sorted(sizes, key=lambda file: sizes[file][1]):
            size, used = sizes[file]
            if held + needed <= self.limit_bytes:
                break
            if file.suffix == ".part" and time.time() - used < _ABANDONED_SECONDS:
                continue  # another process is fetching it
            file.unlink(missing_ok=True)
            held -= size
        with part.open("wb") as target:
            target.truncate(needed)

    def _fetch(self, url: str, shard: ShardInfo, path: Path) -> None:
        part = path.with_suffix(".part")
        with file_lock(self.folder / "lock"):
            self._make_room(part, shard.bytes)
        attempts = Retrying(
            retry=retry_if_not_exception_type(FileNotFoundError),
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_exponential(_FIRST_WAIT_SECONDS) + wait_random(0, _FIRST_WAIT_SECONDS),
            reraise=True,
        )
        try:
            attempts(_copy, url, shard, part)
            part.replace(path)
        except FileNotFoundError:
            raise ShardError(
                f"{url}: listed in the manifest but missing; run jobs.prepare again"
            ) from None
        except ShardError as error:
            raise ShardError(f"{url}: {error}; run jobs.prepare again") from None
        except Exception as error:  # object stores raise errors of many kinds
            problem = str(error) or type(error).__name__
            raise UnreachableShard(
                f"{url}: can't be fetched: {problem}; check the object store, and the room in "
                f"{self.folder}"
            ) from None
        finally:
            part.unlink(missing_ok=True)


def _copy(url: str, shard: ShardInfo, part: Path) -> None:
    """Copy a shard into a file of its size.

    Raises:
        ShardError: the bytes are others.
    """
    digest = hashlib.sha256()
    system, inner = filesystem(url)
    with system.open(inner, "rb") as source, part.open("r+b") as target:
        while data := source.read(_READ_BYTES):
            digest.update(data)
            target.write(data)
        target.truncate()
    if digest.hexdigest() != shard.sha256:
        raise ShardError("its bytes are not those of the manifest")
