"""The encoding of a text file: its byte-order mark, what `corpus.encoding` names, or a guess."""

import codecs
import functools
import re
from collections.abc import Iterator

SAMPLE_BYTES = 1 << 16
"""Bytes at the start of a text that are looked at."""
PADDING_BYTES = 64 << 20
"""Zero bytes before a text that are skipped to find its first bytes."""
BAD_SHARE = 0.1
"""A codec that can't read this share is the wrong one; if it fails on less, bytes are damaged."""
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # this one begins with the mark of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    ("\ufeff".encode("gb18030"), "gb18030"),
)
ORDERS = {"utf-16": ("utf-16-le", "utf-16-be"), "utf-32": ("utf-32-le", "utf-32-be")}
"""Codecs that leave the order of bytes to the mark, and what they may mean without one."""
FOREIGN = re.compile(
    rb"(?P<archive>PK\x03\x04|Rar!\x1a\x07|7z\xbc\xaf\x27\x1c|.{257}ustar)"
    rb"|(?P<table>PAR1|ARROW1|\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1)|(?P<document>%PDF-\d|\{\\rtf1)",
    re.DOTALL,
)
"""The first bytes of files that are no text but often have the name of one."""
KINDS = {
    "archive": "an archive or a document of an office program; unpack it, or save it as text (CSV)",
    "table": "a Parquet, Arrow or Excel file; give it its own name, or save it as CSV in UTF-8",
    "document": "a PDF or RTF document; save it as text",
}
PADDING = re.compile(rb"(?:\0\0\0\0)+")
"""Zero bytes that are no text in any encoding; the length keeps the alignment of UTF-32."""
SIMPLIFIED = frozenset(
    bytes([high, low]).decode("gb2312", "ignore")
    for high in (0xA1, 0xA3, *range(0xB0, 0xD8))
    for low in range(0xA1, 0xFF)
)
"""GB2312's punctuation, full-width forms and the 3,755 characters of its first level."""
TRADITIONAL = frozenset(
    bytes([high, low]).decode("big5", "ignore")
    for high in range(0xA4, 0xC7)
    for low in (*range(0x40, 0x7F), *range(0xA1, 0xFF))
)
"""The 5,401 characters of Big5's first level."""
COMMON = SIMPLIFIED | TRADITIONAL
CHINESE = ("gb18030", "big5hkscs")
"""Codecs of Chinese text beside those of Unicode; the second one is Big5 with its extensions. Of
pieces of 16 characters of news in either, 99.5 % or more were known."""
EVIDENT = 30
"""Characters beyond ASCII that tell an encoding: no chance makes so many fit."""
BEYOND_ASCII = re.compile("[^\x00-\x7f]+")
NEIGHBOURS = {"euc_kr": (re.compile("[가-힣]"), 0.9), "euc_jp": (re.compile("[ぁ-ヿ]"), 0.2)}
"""Codecs whose bytes are common Chinese characters in GB18030; their own script, and the share of
the characters beyond ASCII from which on a text is in it."""


def what_else(head: bytes) -> str:
    """What data is that is no text, and what to do, by its first bytes; empty if it may be text."""
    found = FOREIGN.match(head)
    return KINDS[found.lastgroup or ""] if found else ""


def find_codec(head: bytes, encoding: str = "auto") -> str:
    """Python codec of a text by its first bytes.

    A byte-order mark decides, or enough valid UTF-8, whatever `encoding` says: some codecs decode
    any bytes. Else a named encoding is taken. If it is UTF-16 or UTF-32, without an order of bytes,
    the order that gives more common Chinese characters is taken. Under `auto`, valid UTF-8 is
    UTF-8; other bytes are Korean or Japanese where they are in its script, or have the codec under
    which most characters are common Chinese ones. Bytes that fit no codec are called UTF-8: its
    reader drops the lines that it can't decode, and counts them. Zero bytes that pad a text are not
    looked at.
    """
    if head.startswith(b"\0\0\0\0"):
        head = PADDING.sub(b"", head)
    for mark, codec in MARKS:
        if head.startswith(mark):
            return codec
    head = head[:SAMPLE_BYTES]
    if not head.strip(b"\0"):
        return "utf-8"
    if b"\0\0\0\0" in head:
        head = PADDING.sub(b"", head)
    if encoding != "auto" and not _evidently_utf8(head):
        orders = ORDERS.get(encoding, (encoding.removesuffix("-sig"),))
        return orders[0] if len(orders) == 1 else max(orders, key=lambda c: _common_share(head, c))
    if head.count(0) > len(head) // 5:
        for codec in ORDERS["utf-32"]:
            if _bad_share(head, codec) < BAD_SHARE:
                return codec
        return "utf-16-be" if head[::2].count(0) > head[1::2].count(0) else "utf-16-le"
    if _bad_share(head, "utf-8") < BAD_SHARE:
        return "utf-8"
    for codec, (script, least) in NEIGHBOURS.items():
        if _script_share(head, codec, script) >= least:
            return codec
    shares = {codec: _common_share(head, codec) for codec in (*CHINESE, *ORDERS["utf-16"])}
    best = max(shares, key=shares.__getitem__)
    return best if shares[best] > 0.5 else "utf-8"


@functools.cache
def keeps_ascii(codec: str) -> bool:
    """Whether ASCII bytes mean the same as in UTF-8, so that records are found without decoding.

    UTF-16, UTF-32, UTF-7, HZ, ISO 2022 and EBCDIC do not.
    """
    ascii_bytes = bytes(range(128))
    try:
        if ascii_bytes.decode(codec) != ascii_bytes.decode("ascii"):
            return False
    except UnicodeError:
        return False
    others = "一あ가éя".encode(codec, "ignore")
    return not others or others[0] not in ascii_bytes


def peek(stream: Iterator[bytes]) -> bytes:
    """Take enough bytes from a stream for `find_codec`, also if zero bytes come first."""
    held, seen = b"", 0
    for data in stream:
        held += data
        seen += len(data) - (data.count(0) if b"\0" in data else 0)
        if (seen > SAMPLE_BYTES // 4 and len(held) >= SAMPLE_BYTES) or len(held) > PADDING_BYTES:
            break
    return held


def _evidently_utf8(head: bytes) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        text = decoder.decode(head)
    except UnicodeDecodeError:
        return False
    return len(beyond_ascii(text)) >= EVIDENT


def _bad_share(head: bytes, codec: str) -> float:
    """Share of the characters beyond ASCII that the codec can't read."""
    # An incremental decoder waits for the rest of a character that the sample's end cuts in two.
    text = codecs.getincrementaldecoder(codec)("replace").decode(head)
    return text.count("\ufffd") / max(len(beyond_ascii(text)), 1)


def _common_share(head: bytes, codec: str) -> float:
    return share_of_common(_readable(head, codec))


def _script_share(head: bytes, codec: str, script: re.Pattern[str]) -> float:
    beyond = beyond_ascii(_readable(head, codec))
    return len(script.findall(beyond)) / max(len(beyond), EVIDENT)


def _readable(head: bytes, codec: str) -> str:
    """What the codec can read; nothing if it can't read many of the characters."""
    if _bad_share(head, codec) >= BAD_SHARE:
        return ""
    return codecs.getincrementaldecoder(codec)("ignore").decode(head)


def share_of_common(text: str) -> float:
    """Share of the characters beyond ASCII that are common Chinese ones."""
    beyond = beyond_ascii(text)
    return sum(map(COMMON.__contains__, beyond)) / max(len(beyond), 1)


def beyond_ascii(text: str) -> str:
    """The characters of a text that ASCII does not have."""
    return "".join(BEYOND_ASCII.findall(text))
