"""The ends of the sentences of a Chinese text."""

import re

CLOSERS = "”’」』）)】》〉\"'"
# A sentence ends after 。！？｡ and the closing marks that follow, unless a comma shows that it goes
# on (“好吧。”，他说). An ellipsis ends a sentence only before a closing or opening quote:
# 我……我不知道。 is one sentence. White space must follow an ASCII full stop: 3.14, www.example.com.
# ASCII ! and ? between ASCII characters end none: http://example.com/?id=1.
# The pattern begins with a plain set of characters, which `re` finds quickly. The quantifiers after
# it are possessive: otherwise a failed look-ahead would backtrack and cut before the closing quote.
# Marks that end no sentence match too, with the empty group: the search goes on after them, and so
# needs linear time. None of them ends a sentence by itself, as what follows them is the same.
END = re.compile(
    r"[。！？!?｡…\n.](?:"
    rf"(?<=[。！？!?｡])[。！？!?｡…{CLOSERS}]*+"
    r"(?:(?=[，、；：,])()|(?<=[!-~][!?])(?=[0-9A-Za-z])()|)"
    rf"|(?<=…)…*+(?:[{CLOSERS}]++(?![，、；：,。！？!?｡…])|(?<=……)(?=[“‘「『])|())"
    r"|(?<=\n)"
    r"|(?<=[^\W\d]\.)(?=\s))"
)
PAUSE = re.compile(r"[，；：、,;:\s]")


def sentence_ends(text: str, limit: int) -> list[int]:
    """Ascending ends of the sentences of a text; the last one is the text's length.

    A sentence of more than `limit` characters is cut after the last comma or space before the
    limit, or at the limit if there is none.
    """
    ends = [match.end() for match in END.finditer(text) if match.lastindex is None]
    if '"' in text:
        ends = _before_opening_quotes(text, ends)
    if not ends or ends[-1] != len(text):
        ends.append(len(text))
    result: list[int] = []
    begin = 0
    for end in ends:
        while end - begin > limit:
            begin = _last_pause(text, begin, begin + limit)
            result.append(begin)
        result.append(end)
        begin = end
    return result


def _before_opening_quotes(text: str, ends: list[int]) -> list[int]:
    """The ends, each moved before the straight quote there if it opens: `他走了。"谁？"她问。`

    It opens if it is the first, third, … one of its line, and something follows it.
    """
    result, before, opened = [], 0, False
    for end in ends:
        opened ^= text.count('"', before, end) % 2 == 1
        before = end
        opens = opened and text[end - 1] == '"' and text[end : end + 1] not in ("", "\n")
        result.append(end - opens)
        opened = opened and text[end - 1] != "\n"
    return result


def _last_pause(text: str, begin: int, end: int) -> int:
    """Where the last pause in text[begin:end] ends, its first quarter left out; `end` if none."""
    last = end
    for match in PAUSE.finditer(text, begin + (end - begin) // 4, end):
        last = match.end()
    return last
