"""Text of a known encoding as characters or as UTF-8, also where other files were joined to it."""

import codecs
import contextlib
import itertools
import re
from collections.abc import Iterable, Iterator

from pipeline.corpus.decoding.encodings import (
    CHINESE,
    EVIDENT,
    ORDERS,
    beyond_ascii,
    share_of_common,
)

UTF8_CHARACTER = (
    rb"(?:[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]{2}"
    rb"|\xed[\x80-\x9f][\x80-\xbf]|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}"
    rb"|\xf4[\x80-\x8f][\x80-\xbf]{2})"
)
"""A character beyond ASCII (RFC 3629)."""
UTF8_BEGINS = re.compile(rb"(?:%b[\t\n\r\x20-\x7e]{0,4096}+){%d}" % (UTF8_CHARACTER, EVIDENT))
"""Text that is evidently UTF-8, from its first character beyond ASCII on."""
UTF8_GOES_ON = re.compile(rb"(?:[\x01-\x7f]++|%b)*+" % UTF8_CHARACTER)
PRINTABLE = b"\t\n\r" + bytes(range(0x20, 0x7F))
KINDS = bytes(
    ord("c" if 0x80 <= byte < 0xC0 else "2" if 0xC2 <= byte < 0xE0 else "3" if byte > 0xDF else "-")
    for byte in range(256)
)
"""Kinds of bytes of UTF-8: a continuation, or the first of a character of two or three bytes."""
HELD_BYTES = 1 << 14
"""Bytes that are held back, so that a stretch that goes on in the next ones is found."""
OTHER_ORDER = {
    one: other for pair in ORDERS.values() for one, other in itertools.permutations(pair)
}
PRIVATE = str.maketrans(
    "\ue78d\ue78e\ue78f\ue790\ue791\ue792\ue793\ue794\ue795\ue796\ue7c7\ue816\ue817\ue818\ue81e"
    "\ue826\ue82b\ue82c\ue831\ue832\ue83b\ue843\ue854\ue855\ue864",
    "︐︒︑︓︔︕︖︗︘︙ḿ\U00020087\U00020089\U000200cc龴龵龶龷\U000215d7龸\U0002298f龹龺\U000241fe龻",
)
"""Characters that Unicode got after Python's GB18030, which decodes their bytes to private use, to
those of GB 18030-2022 and Unicode."""
IS_PRIVATE = re.compile(f"[{''.join(map(chr, PRIVATE))}]")
FEW, MOST = 4, 0.9
"""Characters beyond ASCII, and the share of common ones, from which on a line is in one of
`CHINESE`: of lines of news 99.8 %, of lines of UTF-8 with a byte changed or cut off 0.07 %."""
BAD = "\udcff"
"""Stands for bytes that a codec can't decode: no text contains it, and UTF-8 refuses its byte."""
EURO = b"\x80"
"""€ in Windows' code page 936, which is GB18030 otherwise."""
OTHER_BIG5 = {"big5hkscs": "cp950", "cp950": "big5hkscs"}
"""Extensions of Big5. A text in one of them is hardly ever read otherwise in the other one."""


def _with_euro(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeDecodeError) and error.encoding == "gb18030":
        end = error.start + len(EURO)
        if error.object[error.start : end] == EURO:
            return "€", end
    raise error


def _mark_bad(error: UnicodeError) -> tuple[str | bytes, int]:
    assert isinstance(error, UnicodeDecodeError | UnicodeEncodeError)
    try:
        return _with_euro(error)
    except UnicodeError:
        return (BAD if isinstance(error, UnicodeDecodeError) else b"\xff"), error.end


codecs.register_error("with_euro", _with_euro)
codecs.register_error("mark_bad", _mark_bad)


def decode(data: bytes, codec: str, errors: str = "with_euro") -> str:
    """The text of a record under its file's codec, or another one if it is evidently that.

    A file may be several files in different encodings, joined, and its first bytes may all be
    ASCII. GB18030 can decode many lines of UTF-8, so UTF-8 is taken if it gives a larger share of
    common Chinese characters. A short line of GB18030 may be valid UTF-8 too, but then it holds
    Latin, Greek or Arabic letters there: of 300,000 pieces of 1 to 8 characters of news and
    reviews, none was taken for UTF-8.

    Raises:
        UnicodeDecodeError: `errors` is not `mark_bad`, and the data is bad in all of them.
    """
    if data.isascii():
        return data.decode(codec, errors)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        found = "" if _is_likely(data, codec) else _evidently_chinese(data)
        return found or _decoded(data, codec, errors)
    if codec == "utf-8":
        return text
    try:
        other = _decoded(data, codec)
    except UnicodeDecodeError:
        return text
    return text if share_of_common(text) > share_of_common(other) else other


def _is_likely(data: bytes, codec: str) -> bool:
    """Whether a record that is no UTF-8 need not be tried in another codec than its file's.

    GB18030 decodes nearly all of Big5, to rare characters and private use. Text of GB2312 may hold
    few common ones: kana, Greek, Cyrillic.
    """
    if codec not in CHINESE:
        return codec != "utf-8"
    if codec == "gb18030":
        with contextlib.suppress(UnicodeDecodeError):
            data.decode("gb2312")
            return True
    try:
        return share_of_common(_decoded(data, codec)) >= MOST
    except UnicodeDecodeError:
        return False


def _evidently_chinese(data: bytes) -> str:
    """The text of a record that is no UTF-8, if it is evidently one of `CHINESE`; else nothing."""
    for codec in CHINESE:
        try:
            text = _decoded(data, codec)
        except UnicodeDecodeError:
            continue
        if len(beyond_ascii(text)) >= FEW and share_of_common(text) >= MOST:
            return text
    return ""


def _decoded(data: bytes, codec: str, errors: str = "with_euro") -> str:
    """The text of a record under its file's codec, or the other extension of Big5."""
    for each in (codec, OTHER_BIG5.get(codec)):
        try:
            return _without_private(data.decode(each or codec, "with_euro"), codec)
        except UnicodeDecodeError:
            continue
    return _without_private(data.decode(codec, errors), codec)


def _without_private(text: str, codec: str) -> str:
    return text.translate(PRIVATE) if codec == "gb18030" and IS_PRIVATE.search(text) else text


def to_utf8(stream: Iterable[bytes], codec: str) -> Iterator[bytes]:
    """Transcode a stream, without its byte-order mark; what is bad there is bad in UTF-8 too.

    Stretches that are evidently UTF-8, as of files that were joined, stay what they are. A mark of
    the other order of bytes begins text in that order.
    """
    decoder = _Decoder(codec)
    begun = False
    for data, is_utf8, final in _pieces(stream):
        text = ""
        if is_utf8:
            # The stretch may begin with the last byte of a character of the codec.
            while data and data[0] < 128 and decoder.held:
                text += decoder.decode(data[:1])
                data = data[1:]
            text += decoder.decode(b"", final=True)
        else:
            text = decoder.decode(data, final)
            data = b""
        if text and not begun:
            text, begun = text.removeprefix("\ufeff"), True
        yield text.encode("utf-8", "mark_bad") + data


class _Decoder:
    """An incremental decoder, which goes on in the other order of bytes after a mark of it."""

    def __init__(self, codec: str) -> None:
        self._use(codec)

    def _use(self, codec: str) -> None:
        self._codec = codec
        self._decoder = codecs.getincrementaldecoder(codec)("mark_bad")
        other = OTHER_ORDER.get(codec)
        self._swapped = "\ufeff".encode(other) if other else b""
        """A mark of the other order. In this one it is no character."""

    @property
    def held(self) -> bytes:
        """The beginning of a character, whose other bytes are awaited."""
        return self._decoder.getstate()[0]

    def decode(self, data: bytes, final: bool = False) -> str:
        """The text of the next bytes; after the final ones, another text may follow."""
        text = ""
        if self._swapped:
            data = self.held + data
            self._decoder.reset()
            while (place := _find_aligned(data, self._swapped)) >= 0:
                text += self._decoder.decode(data[:place], True)
                self._use(OTHER_ORDER[self._codec])
                data = data[place:]
        text += self._decoder.decode(data, final)
        if final:
            self._decoder.reset()
        return _without_private(text, self._codec)


def _find_aligned(data: bytes, unit: bytes) -> int:
    """Place of a code unit in data that begins with a whole one; -1 if it is not there."""
    place = data.find(unit)
    while place > 0 and place % len(unit):
        place = data.find(unit, place + 1)
    return place


def _pieces(stream: Iterable[bytes]) -> Iterator[tuple[bytes, bool, bool]]:
    """The data in pieces, each with whether it is a stretch of UTF-8, and whether it is the end."""
    held, inside = b"", False
    for data, final in _with_end(stream):
        held += data
        begin, possible = 0, _may_hold_utf8(held)
        while True:
            if not inside:
                found = UTF8_BEGINS.search(held, begin) if possible else None
                if not found:
                    break
                start = begin + len(held[begin : found.start()].rstrip(PRINTABLE))
                yield held[begin:start], False, False
                begin = start
            goes_on = UTF8_GOES_ON.match(held, begin)
            end = goes_on.end() if goes_on else begin
            yield held[begin:end], True, False
            # The last bytes may be the beginning of a character.
            inside, begin = len(held) - end < 4 and not final, end
            if inside:
                break
        end = len(held)
        if not final:
            end = begin if inside else max(begin, end - HELD_BYTES)
        yield held[begin:end], False, final
        held = held[end:]


def _may_hold_utf8(data: bytes) -> bool:
    """Whether a search for UTF-8 may pay: letters of one script stand side by side."""
    kinds = data.translate(KINDS)
    return b"3cc" * 3 in kinds or b"2c" * 6 in kinds


def _with_end(stream: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    for data in stream:
        yield data, False
    yield b"", True
