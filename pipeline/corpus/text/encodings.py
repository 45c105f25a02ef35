"""Which encoding a text file has: UTF-8, GB18030 (with GBK and GB2312) or UTF-16."""

from __future__ import annotations

import codecs
from collections.abc import Iterator

BAD_SHARE = 0.1
"""A codec that can't read a tenth of what it should is the wrong one; below, bytes are damaged."""
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
"""GB2312's punctuation, full-width forms and its 3,755 characters of daily use."""


def detect_encoding(head: bytes) -> str:
    """Python codec of a text, by its first bytes: `utf-8`, `utf-8-sig`, `gb18030` or `utf-16…`.

    Without a mark, valid UTF-8 is UTF-8; else the codec under which most of the characters are
    common Chinese ones. Bytes that fit none are called UTF-8, whose reader will quarantine them.
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


def to_utf8(blocks: Iterator[bytes], codec: str) -> Iterator[bytes]:
    """Transcode a UTF-16 stream; lone surrogates become bytes that UTF-8 refuses later."""
    decoder = codecs.getincrementaldecoder(codec)("surrogatepass")
    for block in blocks:
        yield decoder.decode(block).encode("utf-8", "surrogatepass")
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:  # half a character at the end: quarantined with its line
        yield error.object


def _bad_share(head: bytes, codec: str) -> float:
    """Characters that the codec can't read, as a share of those beyond ASCII."""
    # An incremental decoder keeps a character that the end of the sample cuts in two.
    text = codecs.getincrementaldecoder(codec)("replace").decode(head)
    beyond = sum(1 for character in text if character > "\x7f")
    return text.count("\ufffd") / max(beyond, 1)


def _common_share(head: bytes, codec: str) -> float:
    if _bad_share(head, codec) >= BAD_SHARE:
        return 0.0
    text = codecs.getincrementaldecoder(codec)("ignore").decode(head)
    beyond = [character for character in text if character > "\x7f"]
    return sum(character in COMMON for character in beyond) / max(len(beyond), 1)
