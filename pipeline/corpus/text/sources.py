"""Which input files a corpus is made of: their names, kinds, sizes and signatures."""

import contextlib
import functools
import os
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import xxhash

from pipeline.corpus.decoding.decompression import COMPRESSIONS
from pipeline.corpus.text.listing import GLOB, UNREADABLE, File, Found, find_files, is_local
from pipeline.corpus.threads import in_threads
from pipeline.errors import CorpusError, StorageError
from pipeline.files.storage import filesystem, url_of
from pipeline.files.urls import is_url
from pipeline.settings.corpus import CorpusSettings

FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".txt": "lines",
    ".text": "lines",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    **dict.fromkeys((".arrow", ".feather", ".ipc"), "arrow"),
    ".xml": "wikidump",
}
WIKIEXTRACTOR_NAME = re.compile(r"wiki_\d+$")
PART_OF_DUMP = re.compile(r"(?<=\.xml)-p\d+p\d+$", re.IGNORECASE)
"""What follows the suffix of a part of a Wikipedia dump: its first and last page."""
EMPTY = "empty"
UNKNOWN_KIND = "unknown kind"
PACKED_TABLE = "Parquet or Arrow file that was compressed once more, which is not read; unpack it"
ABOUT_DATA_SETS = ("dataset_info.json", "state.json", "dataset_dict.json")
"""Files that Hugging Face's `save_to_disk` writes beside the data."""
NO_DATA = "description of a data set"
LFS = b"version https://git-lfs.github.com/spec/"
POINTER_BYTES = 1024
"""Most bytes of a pointer of Git LFS."""
POINTER = "pointer of Git LFS to data that was not fetched"
SHOWN = 5
"""How many of the files that are left out for one reason are named in messages."""
HASHED_BYTES = 10**9
"""Inputs of up to this many bytes in all are hashed whole, which takes a second or two."""
HASHED_SAMPLE = 1 << 16
"""Bytes that are hashed at each of four places of a file, when the inputs are larger."""


class Source(NamedTuple):
    """One input file."""

    path: str
    """Path or URL that opens it."""
    label: str
    """The path for messages: bytes that are not UTF-8 stand in it as `\\x…`."""
    name: str
    """`<number of the input>/<path inside it>`, which does not depend on where the inputs lie."""
    size: int
    """Bytes on disk."""
    format: str
    compression: str
    """gzip, bz2, xz, zstd, or empty."""
    version: str
    """The store's hash of the content, or the time of the last change."""
    signature: str = ""
    """A hash that changes when the content changes; empty if the listing was not signed."""


class LeftOut(NamedTuple):
    """A file under an input that is not read, or a folder of such files."""

    path: str
    reason: str


class Listing(list[Source]):
    """The files to read, in order; and those under the same inputs that are left out."""

    def __init__(self, sources: Sequence[Source], left_out: Sequence[LeftOut]) -> None:
        super().__init__(sources)
        self.left_out = tuple(left_out)

    def left_out_by_reason(self) -> dict[str, list[str]]:
        """The paths of what is left out, by reason."""
        paths: dict[str, list[str]] = {}
        for each in sorted(self.left_out, key=lambda each: each.reason):
            paths.setdefault(each.reason, []).append(each.path)
        return paths

    def left_out_lines(self) -> list[str]:
        """A line for each reason, with the number of files and the first of them."""
        return [
            f"{len(paths):,} {reason}: {', '.join(paths[:SHOWN])}{' …' * (len(paths) > SHOWN)}"
            for reason, paths in self.left_out_by_reason().items()
        ]


@contextlib.contextmanager
def naming(label: str) -> Iterator[None]:
    """Turn whatever is raised while a file is read into a CorpusError that names the file.

    Libraries for compression, Parquet and object stores each raise errors of their own.
    """
    try:
        yield
    except (CorpusError, StorageError, MemoryError):
        raise
    except FileNotFoundError:
        raise CorpusError(
            f"{label}: the file vanished while the corpus was prepared; put it back or take it out "
            "of the inputs, then run again (finished shards are kept)"
        ) from None
    except Exception as error:
        cause = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise CorpusError(
            f"{label}: can't be read: {cause}; remove the cause, or take the file out of "
            "the inputs, then run again (finished shards are kept)"
        ) from error


def list_sources(
    inputs: Sequence[str], settings: CorpusSettings, setting: str = "corpus.inputs"
) -> Listing:
    """List the files behind files, folders, globs and URLs; a folder's files in order of name.

    The files are not signed. In folders and globs, some files are left out, each with its reason:
    hidden and empty ones, what is no regular file, links that lead nowhere, in a circle or to what
    is read already, and under `format: auto` files of unknown kind.

    Args:
        setting: names the inputs in messages.

    Raises:
        CorpusError: an input does not exist, can't be read, holds no usable file, or is of unknown
            kind.
    """
    if not inputs:
        raise CorpusError(f"{setting} is empty: name files, folders, globs or URLs")
    sources: list[Source] = []
    left_out: list[LeftOut] = []
    for index, text in enumerate(inputs):
        listed = find_files(text, setting, lambda path: bool(_kind(path, settings.format)[0]))
        items = [
            _source(index, text, listed, path, file, settings.format)
            for path, file in listed.files.items()
        ]
        new = [item for item in items if isinstance(item, LeftOut)]
        _check_complete(new, setting)
        if len(new) == len(items) and not any(each.reason == EMPTY for each in new):
            raise _nothing_to_read(text, new, setting, listed.named)
        left_out.extend(new)
        sources.extend(item for item in items if isinstance(item, Source))
    if not sources:
        raise CorpusError(f"{setting}: {', '.join(inputs)}: all {len(left_out)} files are empty")
    return Listing(sources, left_out)


def sign_sources(listing: Listing) -> Listing:
    """The listing with the signature of each file.

    This reads the files, or parts of them, so a job signs once and passes the listing on.

    Raises:
        CorpusError: a file can't be read.
    """
    whole = sum(source.size for source in listing) <= HASHED_BYTES
    signatures = in_threads(functools.partial(_signature, whole=whole), listing)
    signed = [
        source._replace(signature=each) for source, each in zip(listing, signatures, strict=True)
    ]
    return Listing(signed, listing.left_out)


def _source(
    index: int, text: str, found: Found, path: str, file: File, form: str
) -> Source | LeftOut:
    """The unsigned source of a file, or why it is left out."""
    url = url_of(found.system, path, text) if is_url(text) else path
    label = url.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    relative = path.removeprefix(found.base).lstrip("/")
    form, compression = _kind(path, form)
    if file.fault:
        return LeftOut(label, file.fault)
    if not form:
        return LeftOut(label, UNKNOWN_KIND)
    if form in ("parquet", "arrow") and compression:
        return LeftOut(label, PACKED_TABLE)
    if not found.named and relative.rpartition("/")[2] in ABOUT_DATA_SETS:
        return LeftOut(label, NO_DATA)
    if not file.size:
        return LeftOut(label, EMPTY)
    if is_local(found.system):  # there, git leaves pointers
        if not os.access(path, os.R_OK, effective_ids=True):
            return LeftOut(label, UNREADABLE)
        if file.size <= POINTER_BYTES and _begins(path, LFS):
            return LeftOut(label, POINTER)
    name = f"{index}/{relative}"
    return Source(url, label, name, file.size, form, compression, file.version)


def _begins(path: str, data: bytes) -> bool:
    with naming(path), open(path, "rb") as file:
        return file.read(len(data)) == data


def _check_complete(left_out: Sequence[LeftOut], setting: str) -> None:
    """Refuse inputs of which a part is there that can't be read."""
    faults = {
        UNREADABLE: ("no permission to read", "make them readable"),
        POINTER: (f"{POINTER}:", "fetch it with `git lfs pull`"),
    }
    for reason, (fault, advice) in faults.items():
        if paths := [each.path for each in left_out if each.reason == reason]:
            raise CorpusError(
                f"{setting}: {fault} {len(paths)} file(s) or folder(s): {', '.join(paths[:SHOWN])}"
                f"{' …' * (len(paths) > SHOWN)}; {advice}, or name the files to read with a glob"
            )


def _nothing_to_read(
    text: str, left_out: Sequence[LeftOut], setting: str, named: bool
) -> CorpusError:
    if not left_out and GLOB.search(text):
        return CorpusError(f"{setting}: {text}: no file matches")
    if named and left_out[0].reason != UNKNOWN_KIND:
        return CorpusError(f"{setting}: {text}: {left_out[0].reason}")
    lines = "".join(f"\n  {line}" for line in Listing([], left_out).left_out_lines())
    return CorpusError(
        f"{setting}: {text}: no file of a known kind ({', '.join(FORMATS)}, wiki_00, each "
        f"plain or compressed); name the kind with corpus.format{lines}"
    )


def _kind(path: str, form: str) -> tuple[str, str]:
    """Format and compression by the file's name; the format is empty if it is unknown."""
    stem, dot, suffix = path.rpartition(".")
    compression = COMPRESSIONS.get(dot + suffix.lower(), "")
    path = PART_OF_DUMP.sub("", stem if compression else path)
    _, dot, suffix = path.rpartition(".")
    if form == "auto":
        if WIKIEXTRACTOR_NAME.search(path):
            form = "wikiextractor"
        else:
            form = FORMATS.get(dot + suffix.lower(), "")
    return form, compression


def _signature(source: Source, whole: bool) -> str:
    """Hash of the whole content; if the inputs are large, of samples and the modification time.

    The time alone would make a new corpus of every copy; samples alone would miss a change between
    them. So inputs that are not large have the same signature on a disk and in an object store. Of
    large ones in an object store, the listing's own hash or time is taken.
    """
    system, inner = filesystem(source.path)
    local = is_local(system)
    if not local and not whole:
        return f"{source.size} {source.version}"
    digest = xxhash.xxh3_128()
    with naming(source.label), open(inner, "rb") if local else system.open(inner, "rb") as file:
        if whole:
            while data := file.read(1 << 20):
                digest.update(data)
            return digest.hexdigest()
        for quarter in range(4):
            file.seek(max(0, source.size - HASHED_SAMPLE) * quarter // 3)
            digest.update(file.read(HASHED_SAMPLE))
    return f"{source.size} {source.version} {digest.hexdigest()}"
