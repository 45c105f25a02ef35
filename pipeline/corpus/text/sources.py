"""Which files are read, and how they are cut into work units.

A unit is fixed by the inputs and `corpus.shard_megabytes`, never by the number of workers, so the
same inputs give the same shards on any cluster. Big plain files are cut into byte ranges; files
that can only be read from their start (compressed, UTF-16) are units of their own, read as streams.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import fsspec
import pyarrow.parquet
import xxhash

from pipeline.corpus.text.encodings import detect_encoding
from pipeline.errors import CorpusError
from pipeline.settings.corpus import CorpusSettings
from pipeline.storage import filesystem

COMPRESSIONS = {
    ".gz": "gzip",
    ".bz2": "bz2",
    ".xz": "xz",
    ".lzma": "xz",
    ".zst": "zstd",
    ".zstd": "zstd",
}
FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".txt": "lines",
    ".text": "lines",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".xml": "wikidump",
}
WIKIEXTRACTOR_NAME = re.compile(r"wiki_\d+$")
GLOB = re.compile(r"[*?\[]")
EXPANSION = 4
"""Text bytes expected in a compressed byte, to group small compressed files into units."""
SAMPLE_BYTES = 1 << 16
HASHED_BYTES = 10**9
"""Inputs of so many bytes in all are hashed whole: a second or two."""


class Source(NamedTuple):
    """One input file."""

    path: str
    """Path or URL that opens it."""
    name: str
    """`<number of the input>/<path inside it>`: the same wherever the inputs lie."""
    size: int
    format: str
    compression: str
    """gzip, bz2, xz, zstd, or empty"""
    signature: str
    """Changes when the content does."""


class Piece(NamedTuple):
    """Part of a file: bytes, or row groups of a Parquet file."""

    source: Source
    start: int
    end: int
    size: int
    """Bytes on disk."""


class Unit(NamedTuple):
    """What one task reads."""

    number: int
    pieces: tuple[Piece, ...]
    stream: bool
    """May hold far more text than one shard, and can only be read from the start."""

    @property
    def bytes(self) -> int:
        """Bytes on disk."""
        return sum(piece.size for piece in self.pieces)


def list_sources(inputs: Sequence[str], settings: CorpusSettings) -> list[Source]:
    """The files behind files, folders, globs and URLs; those of a folder in order of their names.

    Of folders and globs, hidden files are left out, and with `format: auto` those of unknown kind.

    Raises:
        CorpusError: an input that does not exist, holds no usable file, or is of unknown kind.
    """
    if not inputs:
        raise CorpusError("corpus.inputs is empty: name files, folders, globs or URLs")
    found = [item for index, text in enumerate(inputs) for item in _files_of(index, text, settings)]
    total = sum(source.size for source, _, _ in found)
    if not total:
        raise CorpusError(f"corpus.inputs: {', '.join(inputs)}: all {len(found)} files are empty")
    return [
        source._replace(signature=_signature(system, info, total <= HASHED_BYTES))
        for source, system, info in found
    ]


def plan_units(sources: Iterable[Source], settings: CorpusSettings) -> list[Unit]:
    """Cut sources into units of about `shard_megabytes` of text, in the order of the sources."""
    target = shard_bytes(settings)
    units: list[Unit] = []
    group: list[Piece] = []
    weight = 0

    def close() -> None:
        nonlocal group, weight
        if group:
            units.append(Unit(len(units), tuple(group), stream=False))
        group, weight = [], 0

    for source in sources:
        for piece, size in _cut(source, target, settings.encoding):
            if size is None:
                close()
                units.append(Unit(len(units), (piece,), stream=True))
                continue
            if weight + size > target:
                close()
            group.append(piece)
            weight += size
    close()
    return units


def shard_bytes(settings: CorpusSettings) -> int:
    """Text bytes of one unit."""
    return max(1, int(settings.shard_megabytes * 1e6))


def _cut(source: Source, target: int, encoding: str) -> list[tuple[Piece, int | None]]:
    """Pieces of a source with their expected text bytes; None for one that must be streamed."""
    if source.size == 0:
        return []
    if source.format == "parquet":
        return _cut_parquet(source, target)
    whole = Piece(source, 0, source.size, source.size)
    if source.compression:
        size = source.size * EXPANSION
        return [(whole, size if size <= target else None)]
    if source.size <= target:
        return [(whole, source.size)]
    if sample_encoding(source, encoding).startswith("utf-16"):
        return [(whole, None)]
    count = -(-source.size // target)
    edges = [source.size * i // count for i in range(count + 1)]
    return [
        (Piece(source, start, end, end - start), end - start)
        for start, end in itertools.pairwise(edges)
    ]


def _cut_parquet(source: Source, target: int) -> list[tuple[Piece, int | None]]:
    system, inner = filesystem(source.path)
    with system.open(inner, "rb") as file:
        try:
            metadata = pyarrow.parquet.read_metadata(file)
        except pyarrow.ArrowException as error:
            raise CorpusError(f"{source.path}: not a Parquet file: {error}") from None
    groups = [metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)]
    share = source.size / max(1, sum(groups))
    return [
        (Piece(source, i, i + 1, int(size * share)), size if size <= 2 * target else None)
        for i, size in enumerate(groups)
    ]


@functools.lru_cache(maxsize=256)
def sample_encoding(source: Source, encoding: str) -> str:
    """Codec of an uncompressed source, told from its first bytes unless it is named."""
    if encoding != "auto":
        return encoding
    system, inner = filesystem(source.path)
    with system.open(inner, "rb") as file:
        return detect_encoding(file.read(SAMPLE_BYTES))


def _files_of(
    index: int, text: str, settings: CorpusSettings
) -> list[tuple[Source, fsspec.AbstractFileSystem, dict]]:
    """Sources of one input, unsigned, with their file system and its listing."""
    system, inner = filesystem(text)
    try:
        if GLOB.search(text):
            found = system.glob(inner, detail=True)
            base = inner[: GLOB.search(inner).start()].rpartition("/")[0]  # type: ignore[union-attr]
        elif system.isdir(inner):
            found, base = system.find(inner, detail=True), inner
        elif system.exists(inner):
            found, base = {inner: system.info(inner)}, inner.rpartition("/")[0]
        else:
            raise CorpusError(f"corpus.inputs: {text}: no such file, folder or glob")
    except OSError as error:
        raise CorpusError(f"corpus.inputs: {text}: {error}") from None
    explicit = len(found) == 1 and not GLOB.search(text)
    sources = []
    for path, info in sorted(found.items()):
        relative = path.removeprefix(base).lstrip("/")
        hidden = any(part.startswith((".", "_")) for part in relative.split("/"))
        if info["type"] != "file" or (hidden and not explicit):
            continue
        form, compression = _kind(path, settings.format)
        if form:
            url = system.unstrip_protocol(path) if "://" in text else path
            source = Source(url, f"{index}/{relative}", info["size"], form, compression, "")
            sources.append((source, system, info))
    if not sources:
        raise CorpusError(
            f"corpus.inputs: {text}: no file of a known kind ({', '.join(FORMATS)}, wiki_00, each "
            "plain or compressed); name the kind with corpus.format"
        )
    return sources


def _kind(path: str, form: str) -> tuple[str, str]:
    """Format and compression by the file's name; an empty format when it is unknown."""
    stem, dot, suffix = path.rpartition(".")
    compression = COMPRESSIONS.get(dot + suffix.lower(), "")
    if compression:
        path = stem
        _, dot, suffix = path.rpartition(".")
    if form == "auto":
        if WIKIEXTRACTOR_NAME.search(path):
            form = "wikiextractor"
        else:
            form = FORMATS.get(dot + suffix.lower(), "")
    return form, compression


def _signature(system: fsspec.AbstractFileSystem, info: dict, whole: bool) -> str:
    """Hash of the content; of big inputs, of samples and the time of the last change.

    The time alone would make another corpus of every copy, samples alone miss a change between
    them. On an object store its own hash, or whatever else its listing has, must do.
    """
    if "local" not in system.protocol:
        own = [info[key] for key in ("ETag", "etag", "md5Hash", "mtime") if info.get(key)]
        return f"{info['size']} {own[:1]}"
    digest = xxhash.xxh3_128()
    with open(info["name"], "rb") as file:
        if whole:
            while data := file.read(1 << 20):
                digest.update(data)
            return digest.hexdigest()
        for part in range(4):
            file.seek(max(0, info["size"] - SAMPLE_BYTES) * part // 3)
            digest.update(file.read(SAMPLE_BYTES))
    return f"{info['size']} {info['mtime']} {digest.hexdigest()}"
