"""Blocks of records to documents, by file format, and their cleaning.

Nothing is replaced silently: what can't be read becomes a `Drop` with its place.
"""

import codecs
import functools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import xxhash

from pipeline.corpus.cleaning.cleaner import Cleaner
from pipeline.corpus.decoding.json_lines import DECODER, next_value, value_at
from pipeline.corpus.decoding.transcoding import decode
from pipeline.corpus.records import Document, Drop
from pipeline.corpus.text import wikipedia
from pipeline.corpus.text.blocks import Block
from pipeline.corpus.text.streams import BLANK, WIKIEXTRACTOR

DOCUMENT_BEGINS = re.compile(
    r'(?<=</doc>)(?=<doc )|(?<!^)(?=<doc id="[^"]*" (?:revid="[^"]*" )?url=")'
)
"""Where WikiExtractor's documents begin in a line that holds something else before them."""

SHOWN_FIELDS = 200
"""Characters of the names of fields that messages show."""


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
    readers: dict[str, Callable[[Block], Iterator[Document | Drop]]] = {
        "text": _one_text,
        "lines": _blank_separated,
        "jsonl": functools.partial(_jsonl, text_field=text_field),
        "wikiextractor": _wikiextractor,
        "wikiextractor_json": functools.partial(_jsonl, text_field="text"),
        "wikidump": _wikidump,
        **dict.fromkeys(("csv", "tsv", "parquet", "arrow"), _rows),
    }
    return readers[block.source.format](block)


def _document(block: Block, offset: int, value: Any, raw: str) -> Document | Drop:
    """A document from the value of a text field, which is a string or a list of paragraphs."""
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        value = "\n".join(value)
    if not isinstance(value, str):
        size = len(raw.encode("utf-8", "replace"))
        return _drop(block, offset, "malformed", raw, size, _fault_of_value(block, value))
    source = block.source
    name = f"{source.name}:{offset}".encode("utf-8", "surrogateescape")
    return Document(xxhash.xxh3_64_intdigest(name), value, f"{source.label}:{offset}")


def _drop(block: Block, offset: int, reason: str, text: str, size: int, what: str = "") -> Drop:
    return Drop(reason, text, f"{block.source.label}:{offset}", size, what)


def _fault_of_value(block: Block, value: Any) -> str:
    """What is wrong with a value of a table that is no text; empty for JSON."""
    if isinstance(value, tuple):
        return "a row with a quote that is not closed, or without as many fields as the header"
    if block.source.format in ("parquet", "arrow"):
        return f"the column holds {'null' if value is None else type(value).__name__}, not text"
    return ""  # see `fault`


def _undecodable(block: Block, offset: int, data: bytes) -> Drop:
    text = data.decode("ascii", "backslashreplace")
    return _drop(block, offset, "undecodable", text, len(data))


def _rows(block: Block) -> Iterator[Document | Drop]:
    for row, value in enumerate(block.rows, block.offset):
        if isinstance(value, bytes):
            yield _undecodable(block, row, value)
        else:
            yield _document(block, row, value, str(value))


def _lines(block: Block) -> Iterator[tuple[int, str | Drop]]:
    """Lines, each with the byte at which it begins.

    Byte-order marks (each of some files that were concatenated begins with one) and the zero bytes
    with which a crash or a copying program pads a file are not text.
    """
    codec, offset, data = block.encoding, block.offset, block.data
    if offset == 0 and codec == "utf-8" and data.startswith(codecs.BOM_UTF8):
        offset, data = len(codecs.BOM_UTF8), data[len(codecs.BOM_UTF8) :]
    padded = b"\0" in data
    for line in _split(data):
        try:
            text = decode(line, codec)
            if padded:
                text = text.strip("\0")
            yield offset, text.lstrip("\ufeff")
        except UnicodeDecodeError as error:
            yield offset, _undecodable(block, offset + error.start, line)
        offset += len(line) + 1


def _split(data: bytes) -> list[bytes]:
    """Lines without the byte that ends them: a line feed, or a carriage return that none follows.

    Carriage returns before a line feed stay at the end of the line.
    """
    lines = data.split(b"\n")
    if b"\r" not in data:
        return lines
    return [part for line in lines for part in _split_at_returns(line)]


def _split_at_returns(line: bytes) -> list[bytes]:
    body = line.rstrip(b"\r")
    parts = body.split(b"\r")
    parts[-1] += line[len(body) :]
    return parts


def _jsonl(block: Block, text_field: str) -> Iterator[Document | Drop]:
    for offset, line in _lines(block):
        if isinstance(line, Drop):
            yield line
        elif line and not line.isspace():
            yield from _json_documents(block, offset, line, text_field)


def _json_documents(
    block: Block, offset: int, line: str, text_field: str
) -> Iterator[Document | Drop]:
    """The documents of a line, which may hold several objects; what follows a fault is one drop.

    A drop ends at zero bytes: where a crash left them, the writer went on with another object.
    """
    at = 0
    while (begin := next_value(line, at)) < len(line):
        offset += len(line[at:begin].encode(block.encoding, "replace"))
        try:
            row, at = DECODER.raw_decode(line, begin)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            zeros = line.find("\0", begin)
            at = zeros if zeros >= 0 else len(line)
        raw = line[begin:at]
        yield _json_document(block, offset, row, raw, text_field)
        if at < len(line):
            offset += len(raw.encode(block.encoding, "replace"))


def _json_document(
    block: Block, offset: int, row: Any, raw: str, text_field: str
) -> Document | Drop:
    value = value_at(row, text_field) if isinstance(row, dict) else None
    if "\\u" in raw:  # an escape such as \ud800 is valid JSON but not a character
        try:
            "".join(value if isinstance(value, list) else [str(value)]).encode("utf-8")
        except (ValueError, TypeError):
            value = None
    return _document(block, offset, value, raw)


def fault(drop: Drop, text_field: str) -> str:
    """The reason of a drop, and what is wrong with what is malformed."""
    if drop.reason != "malformed":
        return drop.reason
    if drop.fault:
        return f"malformed: {drop.fault}"
    try:
        row = DECODER.decode(drop.text)
    except (ValueError, RecursionError) as error:
        return f"malformed: not valid JSON: {error}"
    if not isinstance(row, dict):
        return "malformed: expected an object of JSON, as {…}"
    if text_field in row or value_at(row, text_field) is not None:
        lone = ", or it holds half of a surrogate pair" if "\\u" in drop.text else ""
        return f"malformed: field {text_field!r} is no text{lone}"
    fields = ", ".join(row)[:SHOWN_FIELDS].encode("utf-8", "backslashreplace").decode()
    advice = f"; set corpus.text_field to one of: {fields}" if fields else ""
    return f"malformed: no field {text_field!r}{advice}"


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
        elif not BLANK.fullmatch(line):
            begin = begin if lines else offset
            lines.append(line)
        elif lines:
            yield _document(block, begin, lines, "")
            lines = []
    if lines:
        yield _document(block, begin, lines, "")


def _wikiextractor(block: Block) -> Iterator[Document | Drop]:
    """The text between `<doc …>` and `</doc>`, which are lines of their own.

    A document that the next one or the end of the file interrupts is taken as it is. Text outside
    of documents is malformed.
    """
    lines: list[str] = []
    begin, inside = 0, False

    def close() -> Iterator[Document | Drop]:
        nonlocal lines
        if inside:
            yield _document(block, begin, lines, "")
        elif lines:
            raw = "\n".join(lines)
            what = "text outside of <doc …> and </doc>"
            yield _drop(block, begin, "malformed", raw, len(raw.encode()), what)
        lines = []

    for offset, line in _lines_at_tags(block):
        if isinstance(line, Drop):
            yield line
            continue
        text = line.rstrip()
        ends = text.endswith("</doc>")
        if tag := WIKIEXTRACTOR.match(text):
            yield from close()
            begin, inside = offset, True
            line = "" if text.endswith(('">', "'>")) else text[tag.end() :]
        elif not lines and not inside:
            begin = offset
        if ends:
            line = line.rstrip().removesuffix("</doc>")
        if line and not line.isspace():
            lines.append(line)
        if ends:
            yield from close()
            inside = False
    yield from close()


def _lines_at_tags(block: Block) -> Iterator[tuple[int, str | Drop]]:
    """Lines; a tag that begins a document begins a line, as it does not after a file cut short."""
    for offset, line in _lines(block):
        if isinstance(line, Drop) or "<doc " not in line:
            yield offset, line
            continue
        for part in DOCUMENT_BEGINS.split(line):
            yield offset, part
            # A line may be in UTF-8 under another codec, which then lacks some of its characters.
            offset += len(part.encode(block.encoding, "replace"))


def _wikidump(block: Block) -> Iterator[Document | Drop]:
    found = False
    for begin, page in wikipedia.pages(block.data):
        found, offset = True, block.offset + begin
        try:
            text = wikipedia.page_text(decode(page, block.encoding))
        except UnicodeDecodeError as error:
            yield _undecodable(block, offset + error.start, page)
            continue
        except wikipedia.MalformedPage as error:
            raw = page.decode(block.encoding, "backslashreplace")
            yield _drop(block, offset, "malformed", raw, len(page), f"a page with {error}")
            continue
        if text:
            yield _document(block, offset, text, "")
    if not found and not block.offset and b"<mediawiki" not in block.data:  # XML that is no dump
        raw = block.data.decode(block.encoding, "backslashreplace")
        what = "XML without <mediawiki>, so no dump of Wikipedia"
        yield _drop(block, 0, "malformed", raw, len(block.data), what)
