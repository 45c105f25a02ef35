"""Text to clean text in steps; each step is a setting, and counts the texts that it changes."""

from __future__ import annotations

import functools
import html
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline.corpus.cleaning import quality
from pipeline.corpus.records import Drop
from pipeline.settings.corpus import CleaningSettings

# Category Cc without tab and line feed; soft hyphen, zero-width, bidirectional and invisible marks;
# private use; surrogates; noncharacters. `re` finds a plain set of characters fast, so exceptions
# are tested after it.
CONTROL = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ufffe\uffff\ud800-\udfff\ue000-\uf8ff\U000e0000-\U000e0fff\U000f0000-\U0010ffff]"
    "(?<!\u200d(?=[\u2600-\u27bf\U0001f000-\U0001faff]))"  # joins emoji
)
LINE_BREAK = re.compile("[\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029](?:(?<=\r)\n)?")
# Only known names with well-formed attributes are tags; 《<数学>》, List<int>, a<b 且 c>d are text.
# An attribute with a quoted value, which no other text has after a tag's name, also shows a tag
# where other attributes are not well-formed. Lengths are bounded, so that time is linear.
QUOTED = r"""(?:"[^"<>]*+"|'[^'<>]*+'|"[^"\n]{0,2000}+"(?=[\s/>])|'[^'\n]{0,2000}+'(?=[\s/>]))"""
VALUE = rf"""(?:{QUOTED}|[^\s"'<>]++)"""
QUOTING = r"[a-zA-Z@:#_*(\[][a-zA-Z0-9@:#_*()\[\].-]{0,100}+\s*+=\s*+"
ATTRIBUTES = (
    rf"(?:(?:\s++(?:{QUOTING}{QUOTED}|[a-zA-Z][a-zA-Z0-9:.-]*+(?:\s*+=\s*+{VALUE})?)){{0,100}}+"
    rf"\s*+/?\s*+>|\s++{QUOTING}[\"'][^<>]{{0,2000}}+>)"
)
# Words without a value are no attributes after one letter: `a <b or c> d`.
COMPARED = r"(?!/?[abipqsu](?:\s++(?!(?:hidden|download)\b)[a-z]++)++\s*+>)"
BLOCK_TAG = re.compile(
    rf"<{COMPARED}"
    r"/?(?:address|article|aside|blockquote|body|br|canvas|center|dd|details|dialog|dir|div|dl|dt"
    r"|fieldset|figcaption|figure|footer|form|frame|frameset|h[1-6]|head|header|hgroup|hr|html"
    r"|legend|li|main|menu|nav|noframes|noscript|ol|optgroup|option|p|pre|script|search|section"
    r"|select|style|summary|svg|table|tbody|td|template|textarea|tfoot|th|thead|title|tr|ul|video)"
    + ATTRIBUTES,
    re.IGNORECASE,
)
INLINE_TAG = re.compile(
    rf"<{COMPARED}"
    r"/?(?:a|abbr|acronym|area|audio|b|base|bdi|bdo|big|button|caption|cite|code|col|colgroup|data"
    r"|datalist|del|dfn|em|embed|font|i|iframe|img|input|ins|kbd|label|link|map|mark|marquee|meta"
    r"|meter|nobr|nowiki|o:p|output|param|path|picture|progress|q|rb|ref|rp|rt|rtc|ruby|s|samp|slot"
    r"|small|source|span|strike|strong|sub|sup|time|track|tt|u|var|wbr)" + ATTRIBUTES,
    re.IGNORECASE,
)
DECLARATION = re.compile(r"<!doctype\b[^<>]{0,2000}>|<\?xml\b[^<>]{0,2000}\?>", re.IGNORECASE)
NOT_SHOWN = re.compile(r"<!--|<(script|style|svg)\b[^<>]{0,2000}>", re.IGNORECASE)
"""What begins a part that is not shown."""
CODE = re.compile("[{}();=]|//|/[*]|<")
"""What stands in every script, style or drawing."""
TYPE_PARAMETER = re.compile("(?<=[A-Za-z0-9_])<[ABIQSU]>")
"""What stands after a name, as in `List<A>`, and would have an end tag in HTML."""
ENDS = {
    "<!--": re.compile("-->"),
    **{name: re.compile(rf"</{name}\s*>", re.IGNORECASE) for name in ("script", "style", "svg")},
}
ESCAPED = re.compile(r"&lt;(?:/[a-z][a-z0-9]{0,15}|br\s?/?)&gt;", re.IGNORECASE)
"""The end of an element, or a line break, of HTML that was escaped whole, as feeds hold it."""
WIDE = re.compile("[０-９Ａ-Ｚａ-ｚ\u3000]")
WIDTHS = {
    code: code - 0xFEE0
    for first, last in ("０９", "ＡＺ", "ａｚ")
    for code in range(ord(first), ord(last) + 1)
} | {0x3000: 0x20}
RADICAL = re.compile("[\u2e80-\u2fdf\uf900-\ufaff\U0002f800-\U0002fa1f]")
RADICALS = {
    code: unicodedata.normalize("NFKC", chr(code))
    for first, end in ((0x2F00, 0x2FD6), (0xF900, 0xFADA), (0x2F800, 0x2FA1E))
    for code in range(first, end)
} | str.maketrans(
    "⺁⺂⺃⺄⺅⺆⺈⺉⺊⺌⺍⺎⺏⺐⺒⺓⺔⺖⺗⺘⺙⺛⺜⺝⺞⺟⺠⺡⺢⺣⺤⺥⺦⺧⺨⺩⺪⺬⺭⺮⺯⺰⺱⺲⺳⺶⺹⺺⺻⺽⺾⺿⻀⻁⻂⻃⻄⻅⻆⻈"
    "⻉⻊⻋⻌⻍⻎⻏⻐⻑⻒⻓⻔⻖⻗⻘⻙⻚⻛⻜⻝⻟⻠⻢⻣⻤⻥⻦⻧⻨⻩⻪⻫⻬⻭⻮⻯⻰⻱⻲⻳",
    "厂乛乚乙亻冂刀刂卜小小兀尣尢巳幺彑忄㣺扌攵旡日月歺母民氵氺灬爫爫丬牛犭王疋示礻竹糹纟罓罒㓁羊耂肀聿臼艹艹艹虎衤覀西见角讠"
    "贝足车辶辶辶阝钅長镸长门阝雨青韦页风飞食飠饣马骨鬼鱼鸟卤麦黄黾斉齐歯齿竜龙龜亀龟",
)
"""Kangxi radicals, radicals of the supplement, and compatibility ideographs to the ideographs that
look the same.

Programs that extract text from PDF files write them for ideographs. The pairs of radicals are those
of Unicode's EquivalentUnifiedIdeograph.txt."""
ENTITY = re.compile(r"&(?:#[0-9]{1,8}|#[xX][0-9a-fA-F]{1,8}|[a-zA-Z][a-zA-Z0-9]{1,31});?")
PLAIN_ENTITIES = re.compile(r"&(?:#|lt|gt|amp|quot|nbsp)", re.IGNORECASE)
"""Entities that are taken as such also without a semicolon and before a letter or digit."""
NAME_GOES_ON = re.compile("[a-zA-Z0-9_=]")
PARAMETERS = r"(?:[!-;=?-~]|[^\W\x00-\x7f])*"
ADDRESS = re.compile(
    rf"(?:://|www\.)[!-;=@-~]*(?:[?？]{PARAMETERS})?|[?？][A-Za-z0-9_.%~+-]{{1,64}}={PARAMETERS}"
)
"""The part of a web address that may hold parameters. Before them, it ends at the first character
that is not ASCII; they may hold letters of any script."""
HAN_RANGES = tuple(
    (np.uint32(first), np.uint32(last))
    for first, last in ((0x3400, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF))
)
"""Extension A and the main block are one range: only 64 hexagrams lie between them."""


class Cleaner:
    """The steps that the settings ask for, in a fixed order; counts the documents they change."""

    def __init__(self, settings: CleaningSettings) -> None:
        self.settings = settings
        self.changed: Counter[str] = Counter()
        """Documents that each step changed."""
        steps: dict[str, Callable[[str], str]] = {
            "mojibake": _repair,
            "html": strip_html,
            "nfkc": functools.partial(unicodedata.normalize, "NFKC"),
            "radicals": fold_radicals,
            "width": fold_width,
            "simplify": simplify,
            "control_characters": remove_control,
            "whitespace": collapse_whitespace,
        }
        self._steps = {name: step for name, step in steps.items() if getattr(settings, name)}

    def __call__(self, text: str) -> str | Drop:
        """The cleaned text, or a drop with its reason.

        Reasons: `empty`, `too_short`, `not_chinese`, `repeated_lines`, `repeated_paragraphs`, and
        those of `quality`.
        """
        for name, step in self._steps.items():
            cleaned = step(text)
            if cleaned != text:
                self.changed[name] += 1
                text = cleaned
        reason = self.reason_to_drop(text)
        return Drop(reason, text) if reason else text

    def clean(self, text: str) -> str:
        """The text after all steps; nothing is counted or dropped."""
        for step in self._steps.values():
            text = step(text)
        return text

    def reason_to_drop(self, text: str) -> str:
        """Why a text, which is clean already, is to be dropped; empty if it is good."""
        settings = self.settings
        if not text or text.isspace():
            return "empty"
        if len(text) < settings.min_characters:
            return "too_short"
        if settings.min_han_share and han_share(text) < settings.min_han_share:
            return "not_chinese"
        if settings.max_repeated_lines < 1 or settings.max_repeated_paragraphs < 1:
            lines, characters = repeated_shares(text)
            if lines > settings.max_repeated_lines:
                return "repeated_lines"
            if characters > settings.max_repeated_paragraphs:
                return "repeated_paragraphs"
        return quality.reason_to_drop(text, settings, self._named)

    @functools.cached_property
    def _named(self) -> quality.Named:
        return _load_named(self.settings, quality.versions(self.settings))


@functools.lru_cache(maxsize=2)
def _load_named(settings: CleaningSettings, versions: tuple[str, str]) -> quality.Named:
    """A process reads the named files once, and again when they have changed."""
    return quality.load_named(settings, versions, Cleaner(settings).clean)


def remove_control(text: str) -> str:
    """Remove control, zero-width and private-use characters; turn line breaks into line feeds."""
    if LINE_BREAK.search(text):
        text = LINE_BREAK.sub("\n", text)
    return CONTROL.sub("", text) if CONTROL.search(text) else text


def collapse_whitespace(text: str) -> str:
    """Turn each stretch of white space into one space, strip lines, remove empty lines."""
    lines = [" ".join(line.split()) for line in text.split("\n")]
    return "\n".join(filter(None, lines))


def strip_html(text: str) -> str:
    """Remove tags, comments and scripts, decode entities; a block tag becomes a line feed.

    A text without tags that holds escaped ones is HTML that was escaped once more, as in feeds.
    Where there are tags, escaped ones are what the page shows.
    """
    if "&" in text and ESCAPED.search(text) and not _has_tags(text):
        text = decode_entities(text)
    if "<" in text and ">" in text:
        if "<![CDATA[" in text:
            text = text.replace("<![CDATA[", "").replace("]]>", "")
        text = _remove_not_shown(text)
        if "<!" in text or "<?" in text:
            text = DECLARATION.sub("", text)
        text = BLOCK_TAG.sub("\n", text)
        kept = _type_parameters(text)
        text = INLINE_TAG.sub((lambda tag: tag[0] if tag[0] in kept else "") if kept else "", text)
    return decode_entities(text) if "&" in text else text


def _has_tags(text: str) -> bool:
    return bool(BLOCK_TAG.search(text) or INLINE_TAG.search(text))


def _type_parameters(text: str) -> set[str]:
    """Those that no end tag closes."""
    found = set(TYPE_PARAMETER.findall(text))
    return {tag for tag in found if f"</{tag[1]}" not in text.upper()}


def _remove_not_shown(text: str) -> str:
    """The text without comments, scripts and the like; what does not end stays.

    An end is looked for once, so that time is linear.
    """
    kept: list[str] = []
    begin = 0
    endless: set[str] = set()
    for found in NOT_SHOWN.finditer(text):
        kind = (found[1] or found[0]).lower()
        if found.start() < begin or kind in endless:
            continue
        if end := ENDS[kind].search(text, found.end()):
            if kind != "<!--" and _is_prose(text[found.end() : end.start()]):
                continue
            kept.append(text[begin : found.start()])
            begin = end.end()
        else:
            endless.add(kind)
    return "".join([*kept, text[begin:]])


def _is_prose(part: str) -> bool:
    """Whether a text only names the tags around a part, which no program or style could be."""
    return "。" in part and not CODE.search(part)


def decode_entities(text: str) -> str:
    """Decode HTML entities; what only looks like one, as `&copy=2` in a web address, is left.

    HTML lets old entities (`&copy`) stand without a semicolon, so parameters of addresses look like
    them. Browsers leave those in the addresses of links as they are; here also those in text.
    """

    def decode(match: re.Match[str], in_address: bool = False) -> str:
        entity = match[0]
        decoded = html.unescape(entity)
        if entity.endswith(";") and not decoded.endswith(";"):
            return decoded
        # Without a semicolon, `html` decodes the longest prefix that is an entity.
        whole = len(decoded) <= 2 and not NAME_GOES_ON.match(match.string, match.end())
        if in_address or not (whole or PLAIN_ENTITIES.match(entity)):
            return entity
        return decoded

    def decode_address(match: re.Match[str]) -> str:
        return ENTITY.sub(functools.partial(decode, in_address=True), match[0])

    parts, end = [], 0
    for address in ADDRESS.finditer(text):
        parts += [ENTITY.sub(decode, text[end : address.start()]), decode_address(address)]
        end = address.end()
    return "".join([*parts, ENTITY.sub(decode, text[end:])])


def fold_radicals(text: str) -> str:
    """Turn radicals and compatibility ideographs into the ideographs that look the same."""
    return text.translate(RADICALS) if RADICAL.search(text) else text


def fold_width(text: str) -> str:
    """Turn full-width letters, digits and the ideographic space into ASCII; keep punctuation."""
    return text.translate(WIDTHS) if WIDE.search(text) else text


def simplify(text: str) -> str:
    """Turn traditional characters into simplified ones (OpenCC t2s)."""
    return _opencc().convert(text)


def han_share(text: str) -> float:
    """Share of the visible characters that are Han."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    # Below `first` the subtraction wraps around to a large number: one comparison tests both ends.
    han = sum(np.count_nonzero(codes - first <= last - first) for first, last in HAN_RANGES)
    return han / max(1, len(codes) - text.count(" ") - text.count("\n"))


def repeated_shares(text: str) -> tuple[float, float]:
    """Share of the lines that repeat an earlier line, and of the characters in such lines.

    These are the Gopher rules (Rae et al. 2021, table A1) as datatrove counts them; here a line is
    a paragraph.
    """
    lines = [line for line in text.split("\n") if line]
    seen: set[str] = set()
    repeats = [line for line in lines if line in seen or seen.add(line)]  # type: ignore[func-returns-value]
    return len(repeats) / max(1, len(lines)), sum(map(len, repeats)) / max(1, len(text))


def _repair(text: str) -> str:
    import ftfy

    # ftfy's other repairs are separate steps here.
    return ftfy.fix_encoding(text)


@functools.cache
def _opencc() -> Any:
    import opencc

    return opencc.OpenCC("t2s")
