"""Files on local disks and in object stores."""

import functools
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import pyarrow as pa
import pyarrow.fs
from fsspec.core import url_to_fs
from fsspec.implementations.arrow import ArrowFSWrapper

from pipeline.errors import StorageError
from pipeline.files.named_errors import named
from pipeline.files.urls import is_url

GOOGLE_SECONDS = 10
S3_ATTEMPTS = 10
"""Of a request. Each wait is twice as long as the one before, and all take 25 s."""
HADOOP_SCHEMES = {"s3a": "s3", "s3n": "s3"}
"""Names that Hadoop and Spark give to S3."""
OPTIONS = re.compile(r"\?(\w+=[^/?&]*(?:&\w+=[^/?&]*)*)")
"""Options in a URL. Names of files may have been appended behind them."""
Elsewhere = Callable[[str], fsspec.AbstractFileSystem | None]
_elsewhere: list[Elsewhere] = []


@contextmanager
def elsewhere(choose: Elsewhere) -> Iterator[None]:
    """In the block, local paths may stand for files of another file system.

    Args:
        choose: gives that file system for an absolute path; None: the path is local.
    """
    _elsewhere.append(choose)
    try:
        yield
    finally:
        _elsewhere.remove(choose)


def _other(path: str) -> fsspec.AbstractFileSystem | None:
    return next(filter(None, (choose(path) for choose in reversed(_elsewhere))), None)


def filesystem(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """File system and inner path of a path or URL: fsspec's, or else pyarrow's (S3, GCS, HDFS).

    What has no `://` is a local path, whatever characters are in it. In a URL, characters such as
    `%`, `#` and space stand for themselves, as where consoles of stores show one; `?KEY=VALUE` is
    an option for pyarrow.

    Raises:
        StorageError: no installed package knows the protocol, the store can't be reached, or the
            URL leads through an archive.
    """
    if not is_url(path):
        if other := _other(path):
            return other, path
        local = fsspec.filesystem("file")
        return local, local._strip_protocol(path)
    if "::" in path:
        raise StorageError(
            f"{path}: URLs with `::`, which lead through archives or caches, are not read; unpack "
            "the archive, or name the files themselves"
        )
    scheme, _, rest = path.partition("://")
    scheme = HADOOP_SCHEMES.get(scheme.lower(), scheme.lower())
    bucket, _, key = without_options(rest).partition("/")
    missing = _missing_package(scheme)
    try:
        if not missing:
            system, inner = url_to_fs(f"{scheme}://{rest}")
            return _strict(system), inner
        system, root = _store(scheme, bucket, "&".join(OPTIONS.findall(rest)[:1]))
    # Some stores are asked at once, and each library raises errors of its own.
    except Exception as error:
        why = str(error).partition("\n")[0]  # without libjvm, eighty places follow
        cause = f"the store can't be reached: {type(error).__name__}: {why}"
        if missing:
            cause = f"{missing}; pyarrow: {why}"
        raise StorageError(f"{path}: {cause}") from error
    if "//" in f"/{key}":
        raise StorageError(f"{path}: `//` in a path is not read; take out a slash")
    return system, f"{root.rstrip('/')}/{key}".rstrip("/") or root


@functools.cache
def _missing_package(scheme: str) -> str:
    """Why fsspec has no file system for a scheme; empty if it has one."""
    try:
        fsspec.get_filesystem_class(scheme)
    except (ImportError, ValueError) as error:
        return str(error)
    return ""


@functools.lru_cache(maxsize=64)
def _store(scheme: str, bucket: str, options: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """pyarrow's file system, made once: it may ask the store for the bucket; and its root's path.

    Google's store is tried for GOOGLE_SECONDS if no option says how long. It is 15 minutes
    otherwise, in which no signal ends the process.
    """
    if scheme in ("gs", "gcs") and "retry_limit_seconds" not in options:
        options = "&".join(filter(None, (options, f"retry_limit_seconds={GOOGLE_SECONDS}")))
    uri = f"{scheme}://{bucket}/{'?' * bool(options)}{options}"
    found, root = pyarrow.fs.FileSystem.from_uri(uri)
    if found.type_name == "gcs":
        return _strict(_Google(found)), root
    return _strict(ArrowFSWrapper(_patient(found) if found.type_name == "s3" else found)), root


class _Google(ArrowFSWrapper):
    """Google's store. A folder there is what stands before a `/` in the name of a file.

    pyarrow lists the folders that it made itself, and no others, unless it lists all files below.
    """

    def ls(self, path: str, detail: bool = False, **kwargs: Any) -> list[Any]:
        """The files and folders in a folder; of a file, that file."""
        path = self._strip_protocol(path).rstrip("/")
        below = pyarrow.fs.FileSelector(path, recursive=True, allow_not_found=True)
        entries = {}
        for each in self.fs.get_file_info(below):
            name, slash, _ = each.path.removeprefix(f"{path}/").partition("/")
            if slash:
                each = pyarrow.fs.FileInfo(f"{path}/{name}", pyarrow.fs.FileType.Directory)
            if name:
                entries[each.path, each.type] = self._make_entry(each)
        found = list(entries.values())
        if not found and (entry := self.info(path))["type"] == "file":
            found = [entry]
        return found if detail else [each["name"] for each in found]


def without_options(url: str) -> str:
    """A URL without the options in it."""
    return OPTIONS.sub("", url, count=1)


def url_of(system: fsspec.AbstractFileSystem, inner: str, asked: str) -> str:
    """The URL of a file that was found behind another URL; it keeps that one's host and options."""
    scheme, _, path = system.unstrip_protocol(inner).partition("://")
    root = filesystem(asked)[1].rstrip("/")
    if (whole := without_options(asked).rstrip("/")).endswith(root):
        # The host, or the user before a bucket (`anonymous@`), is in no path.
        _, _, path = f"{whole.removesuffix(root)}{inner}".partition("://")
    bucket, slash, key = path.partition("/")
    options = OPTIONS.search(asked)
    return f"{scheme}://{bucket}{options[0] if options else ''}{slash}{key}"


def _patient(found: pyarrow.fs.FileSystem) -> pyarrow.fs.FileSystem:
    """S3 that outlasts a time in which it limits requests; 6 s, pyarrow's limit, are too short.

    It trusts the certificates in AWS_CA_BUNDLE, as other clients of S3 do; pyarrow does not.
    """
    options = found.__reduce__()[1][0]  # `from_uri` takes no strategy
    if (bundle := os.environ.get("AWS_CA_BUNDLE")) and not options.get("tls_ca_file_path"):
        options = {**options, "tls_ca_file_path": bundle}
    strategy = pyarrow.fs.AwsDefaultS3RetryStrategy(max_attempts=S3_ATTEMPTS)
    return pyarrow.fs.S3FileSystem(**{**options, "retry_strategy": strategy})


def _strict(system: fsspec.AbstractFileSystem) -> fsspec.AbstractFileSystem:
    """The file system; a folder that it can't list is an error, not empty, in `find` and `glob`."""
    for name in ("walk", "_walk"):  # fsspec does not pass `on_error` on to folders in folders
        if method := getattr(type(system), name, None):
            walk = functools.partial(method, system, on_error=_raise_unless_missing)
            setattr(system, name, walk)
    return system


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def write_whole(path: str | Path, data: bytes | pa.Buffer) -> None:
    """Write a file completely or not at all; a local file is synced to the disk, then renamed."""
    path = str(path)
    if is_url(path) or _other(path):
        system, inner = filesystem(path)
        system.pipe_file(inner, bytes(data))
        return
    with whole_file(Path(path)) as file:
        file.write(data)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A local file that appears when the block ends without an error, synced to the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The number of a process is not enough: threads, and containers that share the disk, collide.
    temporary = path.with_name(f".{path.name}.{os.getpid()}{secrets.randbits(63)}.tmp")
    try:
        with named(path), temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, values: object) -> None:
    """Write values as readable JSON, completely or not at all."""
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    write_whole(path, text.encode())


def read_note(path: Path) -> dict[str, Any]:
    """A JSON object that says what was done; empty where it is missing or damaged: do it again."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def read_whole(path: str) -> bytes:
    """The bytes of a file."""
    system, inner = filesystem(path)
    return system.cat_file(inner)
