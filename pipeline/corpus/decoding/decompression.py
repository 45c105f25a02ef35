"""Compressed files as iterators of bytes."""

import bz2
import functools
import itertools
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

import zstandard

COMPRESSIONS = {
    ".gz": "gzip",
    ".bz2": "bz2",
    ".xz": "xz",
    ".lzma": "xz",
    ".zst": "zstd",
    ".zstd": "zstd",
}
"""Compression by the suffix of a file's name."""
MAGIC = re.compile(
    rb"(?P<gzip>\x1f\x8b\x08)|(?P<bz2>BZh[1-9]1AY&SY)|(?P<xz>\xfd7zXZ\0)|(?P<zstd>\x28\xb5\x2f\xfd)"
)
"""The first bytes of compressed data."""
NO_TEXT = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]")
PROBED_BYTES = 512
READ_BYTES = 1 << 20
COMPRESSED_READ_BYTES = {"gzip": 8192, "bz2": 8192, "xz": 8192, "zstd": 512}
"""Small for zstd, where all that one read decompresses to is held in memory: 32,768 times as much
at most."""
PART_BYTES = 1 << 22
"""Bytes that are decompressed at a time, so that a small file that becomes terabytes (a zip bomb)
takes no more memory than others."""
FRAMES: dict[str, Callable[[], Any]] = {
    "gzip": lambda: zlib.decompressobj(wbits=31),
    "bz2": bz2.BZ2Decompressor,
    "xz": lzma.LZMADecompressor,
    # `zstd --long` makes windows of up to 2 GiB.
    "zstd": lambda: zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj(),
}
"""Decompressors of one frame, by compression; a file is a sequence of frames."""


class Damage(Exception):
    """Compressed data that can't be read on."""

    def __init__(self, message: str, whole: bool, place: int) -> None:
        super().__init__(message)
        self.whole = whole
        """All data before is complete: what follows it is not compressed data."""
        self.place = place
        """Byte of the file, counted from where reading began, up to which it was read."""


def compression_of(head: bytes, named: str) -> str:
    """The compression of data by its first `PROBED_BYTES`.

    Browsers and servers decompress or compress files under way and leave them their names. Data
    without a mark is what its name says, unless it is plain text.
    """
    if found := MAGIC.match(head):
        return found.lastgroup or ""
    return named if NO_TEXT.search(head) else ""


def decompressed(file: IO[bytes], named: str) -> Iterator[bytes]:
    """The content of a file, which begins at its current position.

    Zero bytes between frames and after the last one are padding.

    Args:
        named: the compression by the file's name: gzip, bz2, xz, zstd, or empty for a plain file.
            The data decides, see `compression_of`.

    Raises:
        Damage: the data is damaged, ends within a frame, or is followed by something else.
    """
    head = file.read(PROBED_BYTES)
    compression = compression_of(head, named)
    size = COMPRESSED_READ_BYTES.get(compression, READ_BYTES)
    reads = itertools.chain([head], iter(functools.partial(file.read, size), b""))
    if not compression:
        yield from reads
        return
    frame: Any = None
    frames = produced = begin = read = 0
    for data in reads:
        read += len(data)
        while data := data.lstrip(b"\0") if frames and frame is None else data:
            if frame is None:
                frame, produced, begin = FRAMES[compression](), 0, read - len(data)
            try:
                for part in _parts(compression, frame, data):
                    produced += len(part)
                    yield part
            except (zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError, ValueError) as error:
                if frames and not produced:
                    message = "bytes that are not compressed follow the data"
                    raise Damage(message, True, begin) from None
                raise Damage(str(error), False, read if produced else begin) from None
            if not frame.eof:
                break
            data, frame, frames = frame.unused_data, None, frames + 1
    if frame is not None:
        whole, place = bool(frames and not produced), read if produced else begin
        raise Damage("the file ends within compressed data", whole, place)


def _parts(compression: str, frame: Any, data: bytes) -> Iterator[bytes]:
    """The decompressed form of the next bytes of a frame, PART_BYTES at a time."""
    if compression == "zstd":  # which has no limit
        yield frame.decompress(data)
        return
    more = True
    while more and not frame.eof:
        part = frame.decompress(data, PART_BYTES)
        yield part
        # Only zlib hands back what it has not looked at yet.
        data = getattr(frame, "unconsumed_tail", b"")
        more = bool(data) or len(part) == PART_BYTES
