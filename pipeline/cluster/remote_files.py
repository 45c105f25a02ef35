"""Files of the command's node for `storage`, in processes on nodes that do not have them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from pipeline.cluster.remote_disk import Offer, RemoteDisk, disk_of
from pipeline.files.disk import Disk
from pipeline.files.storage import elsewhere, write_whole


@contextmanager
def files_of(offer: Offer) -> Iterator[Disk]:
    """Let `storage` use files of the command's node in the block.

    These are the files of the offered folder, and others that this node lacks or has in another
    version.
    """
    disk = disk_of(offer)
    if not isinstance(disk, RemoteDisk):
        yield disk
        return
    system = _Files(disk)

    def choose(path: str) -> AbstractFileSystem | None:
        own = Path(path)
        if own.is_relative_to(offer.folder):
            return system
        if own.is_relative_to(disk.root) or disk.sees(own):
            return None
        return system

    with elsewhere(choose):
        yield disk


class _Files(AbstractFileSystem):
    """The files of a remote disk for `storage`, by their paths on the command's node."""

    cachable = False

    def __init__(self, disk: Disk) -> None:
        super().__init__()
        self._disk = disk

    def ls(self, path: str, detail: bool = True, **given: Any) -> list[Any]:
        return self._disk.call(_locally, "ls", path, detail=detail)

    def info(self, path: str, **given: Any) -> dict[str, Any]:
        return self._disk.call(_locally, "info", path)

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **given: Any
    ) -> bytes:
        return self._disk.call(_locally, "cat_file", path, start, end)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **given: Any) -> None:
        self._disk.call(write_whole, path, bytes(value))

    def rm_file(self, path: str) -> None:
        self._disk.call(_locally, "rm_file", path)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        self._disk.call(_locally, "makedirs", path, exist_ok=exist_ok)

    def _open(self, path: str, mode: str = "rb", **given: Any) -> "_OpenFile":
        return _OpenFile(self, path, mode, **given)


class _OpenFile(AbstractBufferedFile):
    """Reads ahead by blocks; is written whole when it is closed."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        return self.fs.cat_file(self.path, start, end)

    def _initiate_upload(self) -> None:
        pass

    def _upload_chunk(self, final: bool = False) -> bool:
        if final:
            self.fs.pipe_file(self.path, self.buffer.getvalue())
        return final


def _locally(method: str, *arguments: Any, **named: Any) -> Any:
    return getattr(LocalFileSystem(auto_mkdir=True), method)(*arguments, **named)
