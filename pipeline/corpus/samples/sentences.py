"""Where sentences end in Chinese text."""

from __future__ import annotations

import re

CLOSERS = "”’」』）)】》〉\"'"
# A sentence ends behind 。！？ and what closes with it, unless a comma shows that it goes on
# (“好吧。”，他说). An ellipsis ends one only before a closing or opening quote: 我……我不知道。 is
# one sentence. An ASCII stop must be followed by white space: 3.14, www.example.com.
# The pattern begins with a plain set of characters, which lets `re` skip all others quickly; what
# follows is possessive, or a failed look-ahead would cut before the closing quote.
END = re.compile(
    r"[。！？!?…\n.](?:"
    rf"(?<=[。！？!?])[。！？!?…{CLOSERS}]*+(?![，、；：,])"
    rf"|(?<=…)…*+(?:[{CLOSERS}]++(?![，、；：,。！？!?…])|(?<=……)(?=[“‘「『]))"
    r"|(?<=\n)"
    r"|(?<=[^\W\d]\.)(?=\s))"
)
PAUSE = re.compile(r"[，；：、,;:\s]")


def sentence_ends(text: str, limit: int) -> list[int]:
    """Ascending ends of the sentences of a text, the last one being its length.

    A sentence of more than `limit` characters is cut behind the last comma or space before the
    limit, and at the limit where there is none.
    """
    ends = [match.end() for match in END.finditer(text)]
    if not ends or ends[-1] != len(text):
        ends.append(len(text))
    result: list[int] = []
    begin = 0
    for end in ends:
        while end - begin > limit:
            begin = _pause(text, begin, begin + limit)
            result.append(begin)
        result.append(end)
        begin = end
    return result


def _pause(text: str, begin: int, end: int) -> int:
    """End of the last pause of a stretch, but for its first quarter, else the stretch's end."""
    last = end
    for match in PAUSE.finditer(text, begin + (end - begin) // 4, end):
        last = match.end()
    return last
