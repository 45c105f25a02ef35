"""Blocks of records to documents, by file format, and their cleaning.

Nothing is replaced silently: what can't be read becomes a `Drop` with file and byte.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator
from typing import Any

import xxhash

from pipeline.corpus.records import Document, Drop
from pipeline.corpus.text import wikipedia
from pipeline.corpus.text.cleaning import Cleaner
from pipeline.corpus.text.reading import Block


def clean_documents(
    blocks: Iterable[Block], text_field: str, cleaner: Cleaner
) -> Iterator[Document | Drop]:
    """The cleaned documents of blocks, in order, and what was dropped, in its place."""
    for block in blocks:
        for document in documents(block, text_field):
            if isinstance(document, Drop):
                yield document
                continue
            cleaned = cleaner(document.text)
            if isinstance(cleaned, Drop):
                yield cleaned._replace(place=document.place)
            else:
                yield document._replace(text=cleaned)


def documents(block: Block, text_field: str) -> Iterator[Document | Drop]:
    """The documents of a block in order, each paragraph on a line of its own."""
    readers = {
        "text": _one_text,
        "lines": _blank_separated,
        "wikiextractor": _wikiextractor,
        "wikidump": _wikidump,
    }
    if block.source.format == "parquet":
        for row, value in enumerate(block.rows, block.offset):
            yield _document(block, row, value, str(value))
    elif block.source.format == "jsonl":
        yield from _jsonl(block, text_field)
    else:
        yield from readers[block.source.format](block)


def _document(block: Block, offset: int, value: Any, raw: str) -> Document | Drop:
    """A document from the value of a text field, which is a string or a list of paragraphs."""
    place = f"{block.source.path}:{offset}"
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        value = "\n".join(value)
    if not isinstance(value, str):
        return Drop("malformed", raw, place, len(raw.encode("utf-8", "replace")))
    number = xxhash.xxh3_64_intdigest(f"{block.source.name}:{offset}".encode())
    return Document(number, value, place)


def _lines(block: Block) -> Iterator[tuple[int, str | Drop]]:
    """Lines, each with the byte at which it begins."""
    codec, offset, data = block.encoding.removesuffix("-sig"), block.offset, block.data
    if offset == 0 and codec == "utf-8" and data.startswith(codecs.BOM_UTF8):
        offset, data = len(codecs.BOM_UTF8), data[len(codecs.BOM_UTF8) :]
    for line in data.split(b"\n"):
        try:
            yield offset, line.decode(codec)
        except UnicodeDecodeError as error:
            place = f"{block.source.path}:{offset + error.start}"
            text = line.decode("ascii", "backslashreplace")
            yield offset, Drop("undecodable", text, place, len(line))
        offset += len(line) + 1


def _jsonl(block: Block, text_field: str) -> Iterator[Document | Drop]:
    for offset, line in _lines(block):
        if isinstance(line, Drop):
            yield line
        elif line and not line.isspace():
            yield _json_document(block, offset, line, text_field)


def _json_document(block: Block, offset: int, line: str, text_field: str) -> Document | Drop:
    try:
        row = json.loads(line)
        value = row.get(text_field) if isinstance(row, dict) else None
        if "\\u" in line:  # an escape such as \ud800 is valid JSON but not a character
            str(value).encode("utf-8")
    except (ValueError, RecursionError):
        value = None
    return _document(block, offset, value, line)


def _one_text(block: Block) -> Iterator[Document | Drop]:
    lines = []
    for _, line in _lines(block):
        if isinstance(line, Drop):
            yield line
        else:
            lines.append(line)
    text = "\n".join(lines)
    if text.strip():
        yield _document(block, block.offset, text, text)


def _blank_separated(block: Block) -> Iterator[Document | Drop]:
    lines: list[str] = []
    begin = 0
    for offset, line in _lines(block):
        if isinstance(line, Drop):
            yield line
        elif line and not line.isspace():
            begin = begin if lines else offset
            lines.append(line)
        elif lines:
            yield _document(block, begin, lines, "")
            lines = []
    if lines:
        yield _document(block, begin, lines, "")


def _wikiextractor(block: Block) -> Iterator[Document | Drop]:
    lines: list[str] = []
    begin = 0
    for offset, line in _lines(block):
        if isinstance(line, Drop):
            yield line
        elif line.startswith("<doc "):
            lines, begin = [], offset
        elif line.startswith("{") and not lines:
            yield _json_document(block, offset, line, "text")
        elif line.startswith("</doc>"):
            yield _document(block, begin, lines, "")
            lines = []
        elif line and not line.isspace():
            lines.append(line)


def _wikidump(block: Block) -> Iterator[Document | Drop]:
    for offset, page in wikipedia.pages(block.data):
        try:
            text = wikipedia.page_text(page)
        except wikipedia.MalformedPage:
            raw = page.decode("utf-8", "backslashreplace")
            yield Drop("malformed", raw, f"{block.source.path}:{block.offset + offset}", len(page))
            continue
        if text:
            yield _document(block, block.offset + offset, text, "")
