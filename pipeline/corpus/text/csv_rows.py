"""The text column of CSV and TSV files, row by row.

A value that is no text stays what it is, as in `tables`.
"""

import csv
import functools
import itertools
import re
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pipeline.corpus.decoding.transcoding import BAD, decode
from pipeline.corpus.text.streams import Stream
from pipeline.corpus.text.tables import column_of
from pipeline.errors import CorpusError

DELIMITERS = {"csv": ",", "tsv": "\t"}
SEPARATOR = re.compile(r"sep=(.)\s*", re.IGNORECASE)
LINE_END = re.compile(r"\r\n|\r|\n")
NUMBER = re.compile(r'\s*"?[+-]?\d[\d.:/-]*"?\s*')
"""A number or date, as columns beside the text hold."""
ESCAPED_QUOTE = re.compile(r'(?<!\\)((?:\\\\)*)\\"')
DIGITS = re.compile(r"\d{1,400}")  # Python reads no number of more than 4,300 digits
RECORD_BYTES = 256 << 20
"""Longest record of text. A longer one is cut here, so that memory is bounded."""

csv.field_size_limit(sys.maxsize)  # by default a field of 128 KiB is an error


def csv_values(stream: Stream, text_field: str) -> Iterator[tuple[Any, int]]:
    """Values of the text column, each with the bytes of its record; the first record is the header.

    A quoted field may contain line breaks, delimiters and doubled quotes (RFC 4180). Where a quote
    is not closed, or closes in a later row, only the line in which it opens is dropped. In TSV such
    a quote is text, as many writers of TSV do not quote. Where rows show that `\\"` stands for a
    quote, as Spark and MySQL write it, it does. A first line `sep=;`, as Excel writes it, names the
    delimiter.

    Raises:
        CorpusError: the file has no text column, or a quote in its header is not closed.
    """
    form, label = stream.source.format, stream.source.label
    lines = _Lines(_lines(stream.data), stream.codec)
    delimiter, spaced = _delimiter(lines, form, text_field)
    style: dict[str, Any] = {"delimiter": delimiter, "skipinitialspace": spaced, "strict": True}
    doubled = map(functools.partial(ESCAPED_QUOTE.sub, r'\1""'), lines)
    readers: list[Iterator[list[str]]] = [csv.reader(each, **style) for each in (lines, doubled)]
    column = width = -1
    while True:
        try:
            row = _next_row(lines, readers, width)
        except StopIteration:
            return
        if row is None or (width > 1 and lines.are_rows(delimiter, row, width, column, form)):
            text, size = lines.back_to_second()
            row = text.rstrip("\r\n").split(delimiter)
            if width < 0 and form != "tsv":
                raise CorpusError(
                    f"{label}: a quote in the header is not closed; correct the line {text!r:.60}"
                )
            if width >= 0 and (form != "tsv" or len(row) != width):
                yield (text,), size
                continue
        else:
            lines.learn(delimiter, row, width)
            size = lines.take()
        if not row:  # an empty line
            continue
        if width < 0:
            names = [name.strip() for name in row]
            column, width = column_of(names, text_field, label), len(row)
        elif width == 1:  # more fields are those of a text that is not quoted
            yield _text_or_bytes(delimiter.join(row)), size
        elif column >= len(row) or any(row[width:]):
            yield tuple(row), size
        else:
            yield _text_or_bytes(row[column]), size


def _text_or_bytes(field: str) -> str | bytes:
    """The field, or its bytes if some of them could not be decoded."""
    return field.encode("utf-8", "mark_bad") if BAD in field else field


def _next_row(lines: "_Lines", readers: list[Iterator[list[str]]], width: int) -> list[str] | None:
    """The next record; None: a quote in it is not closed.

    Args:
        readers: one that takes `\\"` for a quote and one that does not. If only the second one
            finds `width` fields, it reads as the file was written, and they change places.
    """
    row = _next(readers[0])
    if width < 0 or len(row or ()) == width or not ESCAPED_QUOTE.search(lines.text):
        return row
    lines.back()
    other = _next(readers[1])
    if len(other or ()) == width:
        readers.reverse()
        return other
    lines.back()
    return _next(readers[0])


def _next(records: Iterator[list[str]]) -> list[str] | None:
    try:
        return next(records)
    except csv.Error:
        return None


def _delimiter(lines: "_Lines", form: str, text_field: str) -> tuple[str, bool]:
    """The delimiter that a first line `sep=…` names, else one that the header shows.

    Also whether a space follows each delimiter of the header, which then is no part of a field.
    """
    usual = DELIMITERS[form]
    for line in lines:
        if named := SEPARATOR.fullmatch(line):
            lines.take()
            return named[1], False
        if line.strip():
            lines.back()
            marks = (usual, *(mark for mark in ",;\t|" if mark != usual))
            fields = {mark: [name.strip(' "\r\n') for name in line.split(mark)] for mark in marks}
            found = next((mark for mark in marks if text_field in fields[mark]), usual)
            return found, 0 < line.count(found) == line.count(f"{found} ")
        lines.take()
    return usual, False


class _Lines:
    """Decoded lines for a CSV reader, which can go back to where its record began."""

    def __init__(self, lines: Iterator[bytes], codec: str) -> None:
        self._lines = lines
        self._codec = codec
        self._again: deque[tuple[str, int]] = deque()
        self._record: list[tuple[str, int]] = []
        self._size = 0
        self._end = ""
        """What ends the header's line; empty if that is not known."""
        self._quotes = False
        """Whether the writer of the file quotes fields where needed: no quote is a stray one."""

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        if self._size > RECORD_BYTES:
            raise csv.Error("the record is too long")
        if self._again:
            line = self._again.popleft()
        else:
            data = next(self._lines)
            text = decode(data, self._codec, "mark_bad").replace("\0", "")
            line = text.lstrip("\ufeff"), len(data)
        self._record.append(line)
        self._size += line[1]
        return line[0]

    def take(self) -> int:
        """Begin a new record; returns the bytes of the one that was read."""
        size, self._size = self._size, 0
        self._record.clear()
        return size

    def back(self) -> None:
        """Read the record again."""
        self._again.extendleft(reversed(self._record))
        self.take()

    @property
    def text(self) -> str:
        """The lines of the record."""
        return "".join(line for line, _ in self._record)

    def learn(self, delimiter: str, row: Sequence[str], width: int) -> None:
        """Note how the writer of the file ends lines and quotes fields, from a record as read.

        It quotes if all fields of the header stand in quotes, or a delimiter does in a row.
        """
        if not row or self._quotes:
            return
        text = self.text
        if width < 0:
            self._end = "".join(LINE_END.findall(text)[-1:])
            self._quotes = all(
                name[:1] == name[-1:] == '"' for name in text.strip().split(delimiter)
            )
        elif len(self._record) == 1:
            self._quotes = len(row) == width <= text.count(delimiter)

    def _breaks_differ(self) -> bool:
        """Whether all line breaks within the record are other ones than those that end rows."""
        text = self.text
        ends = LINE_END.findall(text)
        last = ends.pop() if text.endswith(("\n", "\r")) else self._end
        return bool(ends) and last == self._end and self._end not in ends

    def are_rows(
        self, delimiter: str, row: Sequence[str], width: int, column: int, form: str
    ) -> bool:
        """Whether the lines of a record are rows, which a quote in the first one joined.

        They are not if the record has as many fields as a row, and the file's writer evidently
        quotes, or ends rows otherwise than lines in fields. Else, in TSV they are if each has as
        many fields as a row. The comma stands in text too, such as in each line of a poem, so in
        CSV another column must hold values as well. A record of more fields than a row is no row
        itself: there most of the lines between its first and last one decide.

        Args:
            row: the record as it was read.
            width, column: fields of a row, and which of them is the text.
        """
        if len(self._record) < 2:
            return False
        counts = [line.count(delimiter) + 1 for line, _ in self._record]
        if form != "tsv" and len(row) > width:
            return 2 * counts[1:-1].count(width) > len(counts) - 2
        if len(row) == width and (self._quotes or self._breaks_differ()):
            return False
        if any(count != width for count in counts):
            return False
        if form == "tsv":
            return True
        rows = [line.split(delimiter) for line, _ in self._record]
        columns = list(zip(*rows, strict=True))
        others = columns[:column] + columns[column + 1 :]
        # The quote of a text that comes last closed at the end of a line, as it should. Lines of a
        # list in that text may be numbered, but their numbers do not go on from that of the row.
        closed = column == width - 1 == len(row) - 1
        return any(_are_values(fields, any_numbers=not closed) for fields in others)

    def back_to_second(self) -> tuple[str, int]:
        """Read the record again from its second line on; returns the first one and its bytes."""
        first, *rest = self._record
        self._again.extendleft(reversed(rest))
        self.take()
        return first


def _are_values(fields: Sequence[str], any_numbers: bool) -> bool:
    """Whether fields are values of one column: numbers, or few different ones.

    Where a text goes on over several lines, its first or its last line also holds a value of this
    column, which no other field equals. So both the first and the last field must occur twice.

    Args:
        any_numbers: whether numbers need not ascend from field to field.
    """
    if all(map(NUMBER.fullmatch, fields)):
        numbers = [list(map(int, DIGITS.findall(field))) for field in fields]
        if any_numbers or all(one < other for one, other in itertools.pairwise(numbers)):
            return True
    counts = Counter(field.strip() for field in fields)
    ends = min(counts[field.strip()] for field in (fields[0], fields[-1]))
    return "" not in counts and ends > 1 and 2 * len(counts) <= len(fields)


def _lines(stream: Iterable[bytes]) -> Iterator[bytes]:
    """Lines with their ends, which are \\n, \\r or \\r\\n; \\r\\n may come as two lines.

    A line of more than `RECORD_BYTES` comes in pieces.
    """
    held = bytearray()
    for data in stream:
        held += data
        if b"\n" in data or b"\r" in data:
            lines = bytes(held).splitlines(keepends=True)
            whole = lines[-1].endswith((b"\n", b"\r"))
            held = bytearray(b"" if whole else lines.pop())
            yield from lines
        elif len(held) > RECORD_BYTES:
            yield bytes(held)
            held = bytearray()
    if held:
        yield bytes(held)
