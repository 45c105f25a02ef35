"""Which input files a corpus is made of: their names, kinds, sizes and signatures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import fsspec
import xxhash

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
HASHED_BYTES = 10**9
"""Inputs of up to this many bytes in all are hashed whole, which takes a second or two."""
HASHED_SAMPLE = 1 << 16
"""Bytes that are hashed at each of four places of a file, when the inputs are larger."""


class Source(NamedTuple):
    """One input file."""

    path: str
    """Path or URL that opens it."""
    name: str
    """`<number of the input>/<path inside it>`, which does not depend on where the inputs lie."""
    size: int
    """Bytes on disk."""
    format: str
    compression: str
    """gzip, bz2, xz, zstd, or empty."""
    signature: str
    """A hash that changes when the content changes; empty if the listing was not signed."""


def list_sources(
    inputs: Sequence[str], settings: CorpusSettings, signed: bool = True
) -> list[Source]:
    """List the files behind files, folders, globs and URLs; a folder's files in order of name.

    In folders and globs, hidden files are left out, and under `format: auto` also files of unknown
    kind. Signing reads local files, or parts of them, so a job signs once and passes the list on.

    Raises:
        CorpusError: an input does not exist, holds no usable file, or is of unknown kind.
    """
    if not inputs:
        raise CorpusError("corpus.inputs is empty: name files, folders, globs or URLs")
    found = [item for index, text in enumerate(inputs) for item in _files_of(index, text, settings)]
    total = sum(source.size for source, _, _ in found)
    if not total:
        raise CorpusError(f"corpus.inputs: {', '.join(inputs)}: all {len(found)} files are empty")
    if not signed:
        return [source for source, _, _ in found]
    return [
        source._replace(signature=_signature(system, info, total <= HASHED_BYTES))
        for source, system, info in found
    ]


def _files_of(
    index: int, text: str, settings: CorpusSettings
) -> list[tuple[Source, fsspec.AbstractFileSystem, dict]]:
    """The unsigned sources of one input, each with its file system and the listing's entry."""
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
        hidden = any(name.startswith((".", "_")) for name in relative.split("/"))
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
    """Format and compression by the file's name; the format is empty if it is unknown."""
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
    """Hash of the whole content; if the inputs are large, of samples and the modification time.

    The time alone would make a new corpus of every copy; samples alone would miss a change between
    them. For an object store, the listing's own hash or time is taken.
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
        for quarter in range(4):
            file.seek(max(0, info["size"] - HASHED_SAMPLE) * quarter // 3)
            digest.update(file.read(HASHED_SAMPLE))
    return f"{info['size']} {info['mtime']} {digest.hexdigest()}"
