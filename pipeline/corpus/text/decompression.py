"""Compressed files as iterators of bytes; damage raises one of `DAMAGE`."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Iterator
from typing import IO, Any

import zstandard

READ_BYTES = 1 << 20
ZSTD_READ_BYTES = 8192
"""Small, because all that one read decompresses to is held in memory, which may be a lot."""
DAMAGE = (EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError)
"""What damaged data raises: bz2 and gzip raise an OSError, without an error number."""


def decompressed(file: IO[bytes], compression: str) -> Iterator[bytes]:
    """The content of a file; `compression` is gzip, bz2, xz, zstd, or empty for a plain file."""
    if compression == "zstd":
        yield from _zstd(file)
        return
    openers: dict[str, Any] = {"gzip": gzip.open, "bz2": bz2.open, "xz": lzma.open}
    opened = openers[compression](file, "rb") if compression else file
    while data := opened.read(READ_BYTES):
        yield data


def _zstd(file: IO[bytes]) -> Iterator[bytes]:
    """The frames of a zstd file. Unlike zstandard's own reader, a file cut short is an error."""
    context = zstandard.ZstdDecompressor()
    frame = None
    while data := file.read(ZSTD_READ_BYTES):
        while data:
            frame = frame or context.decompressobj()
            yield frame.decompress(data)
            data = frame.unused_data if frame.eof else b""
            frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("the file ends within a frame")
