"""The encoding of a text file: UTF-8, GB18030 (which contains GBK and GB2312) or UTF-16."""

from __future__ import annotations

import codecs
from collections.abc import Iterator

SAMPLE_BYTES = 1 << 16
"""Bytes at the start of a text that are looked at."""
BAD_SHARE = 0.1
"""A codec that can't read this share is the wrong one; if it fails on less, bytes are damaged."""
BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
COMMON = frozenset(
    bytes([high, low]).decode("gb2312", "ignore")
    for high in (0xA1, 0xA3, *range(0xB0, 0xD8))
    for low in range(0xA1, 0xFF)
)
"""GB2312's punctuation, full-width forms and the 3,755 characters of its first level."""


def detect_encoding(head: bytes) -> str:
    """Python codec of a text by its first bytes: `utf-8`, `utf-8-sig`, `gb18030` or `utf-16…`.

    A byte order mark decides. Without one, valid UTF-8 is UTF-8; other bytes have the codec under
    which most characters are common Chinese ones. Bytes that fit no codec are called UTF-8: its
    reader drops the lines that it can't decode, and counts them.
    """
    for mark, codec in BOMS:
        if head.startswith(mark):
            return codec
    if head.count(0) > len(head) // 5:
        return "utf-16-be" if head[::2].count(0) > head[1::2].count(0) else "utf-16-le"
    if _bad_share(head, "utf-8") < BAD_SHARE:
        return "utf-8"
    shares = {codec: _common_share(head, codec) for codec in ("gb18030", "utf-16-le", "utf-16-be")}
    best = max(shares, key=shares.__getitem__)
    return best if shares[best] > 0.5 else "utf-8"


def to_utf8(stream: Iterator[bytes], codec: str) -> Iterator[bytes]:
    """Transcode a UTF-16 stream; lone surrogates become bytes that the UTF-8 decoder refuses."""
    decoder = codecs.getincrementaldecoder(codec)("surrogatepass")
    for data in stream:
        yield decoder.decode(data).encode("utf-8", "surrogatepass")
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:  # half a character: the last line will be undecodable
        yield error.object


def _bad_share(head: bytes, codec: str) -> float:
    """Share of the characters beyond ASCII that the codec can't read."""
    # An incremental decoder waits for the rest of a character that the sample's end cuts in two.
    text = codecs.getincrementaldecoder(codec)("replace").decode(head)
    beyond = sum(1 for character in text if character > "\x7f")
    return text.count("\ufffd") / max(beyond, 1)


def _common_share(head: bytes, codec: str) -> float:
    if _bad_share(head, codec) >= BAD_SHARE:
        return 0.0
    text = codecs.getincrementaldecoder(codec)("ignore").decode(head)
    beyond = [character for character in text if character > "\x7f"]
    return sum(character in COMMON for character in beyond) / max(len(beyond), 1)
