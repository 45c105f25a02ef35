"""Text to clean text in steps; each step is a setting, and counts the texts that it changes."""

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline.corpus.characters import code_points
from pipeline.corpus.cleaning import quality
from pipeline.corpus.cleaning.html_text import strip_html
from pipeline.corpus.records import Drop
from pipeline.settings.corpus import CleaningSettings

# Category Cc without tab and line feed; what Unicode calls default ignorable (soft hyphen, zero-
# width and bidirectional marks, fillers, variation selectors); stand-ins for objects (U+FFFC);
# private use; surrogates; noncharacters. `re` finds a plain set of characters fast, so exceptions
# are tested after it.
CONTROL = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    "\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffc\ufffe\uffff"
    "\ud800-\udfff\ue000-\uf8ff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    "\U000f0000-\U0010ffff]"
    "(?<!\u200d(?=[\u2600-\u27bf\U0001f000-\U0001faff]))"  # joins emoji
)
LINE_BREAK = re.compile("[\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029](?:(?<=\r)\n)?")
WIDTHS = {
    code: code - 0xFEE0
    for first, last in ("０９", "ＡＺ", "ａｚ")
    for code in range(ord(first), ord(last) + 1)
} | {0x3000: 0x20}
WIDE = re.compile(f"[{''.join(map(chr, WIDTHS))}]")
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
def _load_named(settings: CleaningSettings, versions: tuple[str, ...]) -> quality.Named:
    """A process reads the named files once, and again when they have changed."""
    words, text = settings.flagged_words, settings.good_text
    return quality.Named(
        quality.flagged_pattern(words, Cleaner(settings).clean) if words else None,
        quality.load_model(text) if text else None,
    )


def remove_control(text: str) -> str:
    """Remove control, invisible and private-use characters; turn line breaks into line feeds."""
    if LINE_BREAK.search(text):
        text = LINE_BREAK.sub("\n", text)
    return CONTROL.sub("", text) if CONTROL.search(text) else text


def collapse_whitespace(text: str) -> str:
    """Turn each stretch of white space into one space, strip lines, remove empty lines."""
    lines = [" ".join(line.split()) for line in text.split("\n")]
    return "\n".join(filter(None, lines))


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
    codes = code_points(text)
    # Below `first` the subtraction wraps around to a large number: one comparison tests both ends.
    han = sum(np.count_nonzero(codes - first <= last - first) for first, last in HAN_RANGES)
    return han / max(1, len(codes) - text.count(" ") - text.count("\n"))


def repeated_shares(text: str) -> tuple[float, float]:
    """Share of the lines that repeat an earlier line, and of the characters in such lines.

    These are the Gopher rules (Rae et al. 2021, table A1) as datatrove counts them; here a line is
    a paragraph.
    """
    counts = Counter(filter(None, text.split("\n")))
    lines = counts.total()
    characters = sum(len(line) * (count - 1) for line, count in counts.items())
    return (lines - len(counts)) / max(1, lines), characters / max(1, len(text))


def _repair(text: str) -> str:
    import ftfy

    # ftfy's other repairs are separate steps here.
    return ftfy.fix_encoding(text)


@functools.cache
def _opencc() -> Any:
    import opencc

    return opencc.OpenCC("t2s")
