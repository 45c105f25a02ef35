"""Lines of files, plain or compressed, each with its place for messages."""

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from pipeline.corpus.decoding.decompression import COMPRESSIONS, Damage, decompressed
from pipeline.corpus.decoding.encodings import find_codec, keeps_ascii, peek, what_else
from pipeline.corpus.decoding.transcoding import decode, to_utf8
from pipeline.errors import StorageError, TaskError
from pipeline.files.storage import filesystem
from pipeline.finetuning.examples.jsonl import bare

Line = tuple[str, str]
"""Place and text."""


def uncompressed(path: str) -> str:
    """A path in lower case, without the suffix of a compression; its end tells the form."""
    stem, dot, suffix = path.lower().rpartition(".")
    return stem if dot + suffix in COMPRESSIONS else path.lower()


@contextlib.contextmanager
def open_bytes(path: str) -> Iterator[Any]:
    """A file, opened to read bytes; what has no `://` is a local path, whatever its characters.

    Raises TaskError when there is no such file, or it can't be read.
    """
    try:
        system, inner = filesystem(path)
        with system.open(inner, "rb") as file:
            yield file
    except FileNotFoundError:
        raise TaskError(f"{path}: no such file") from None
    except (OSError, StorageError) as error:
        raise TaskError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def read_lines(path: str) -> Iterator[Line]:
    """The lines of a file, blank ones included.

    Raises TaskError when the file is missing or damaged.
    """
    suffix = path.lower().rpartition(".")[2]
    with open_bytes(path) as file:
        yield from lines_of(decompressed(file, COMPRESSIONS.get(f".{suffix}", "")), path)


def lines_of(parts: Iterable[bytes], name: str) -> Iterator[Line]:
    """The lines of a text that comes in parts, in an encoding that a corpus may have.

    A byte order mark at the beginning of a line is left out: files with one are also concatenated.

    Args:
        name: of the text, for places.

    Bytes that the encoding does not have become `BAD`, which no field of an example may hold.

    Raises TaskError when compressed data is damaged, or the data is no text.
    """
    number = 0
    try:
        remaining = iter(parts)
        head = peek(remaining)
        if what := what_else(head):
            raise TaskError(f"{name}: is {what}")
        codec, parts = find_codec(head), itertools.chain([head], remaining)
        if not keeps_ascii(codec):
            codec, parts = "utf-8", to_utf8(parts, codec)
        for number, line in enumerate(_cut(parts), 1):
            yield f"{name}, line {number}", bare(decode(line, codec, "mark_bad"))
    except Damage as error:
        raise TaskError(f"{name}, after line {number}: {error}") from error


def _cut(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Lines end with a line feed; where there is none, with a carriage return, as on old Macs."""
    held: list[bytes] = []
    fed = False
    for part in parts:
        *lines, rest = part.split(b"\n")
        for line in lines:
            yield b"".join([*held, line])
            held, fed = [], True
        held.append(rest)
    if last := b"".join(held):
        yield from [last] if fed else last.removesuffix(b"\r").split(b"\r")
