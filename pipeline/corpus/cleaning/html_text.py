"""HTML to its text: tags, comments and scripts go, entities are decoded."""

import html
import re

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
    r"|meter|nobr|nowiki|object|output|param|path|picture|progress|q|rb|ref|rp|rt|rtc|ruby|s|samp"
    r"|slot|small|source|span|strike|strong|sub|sup|time|track|tt|u|var|wbr|(?:o|st1|v|w):[a-z]+)"
    + ATTRIBUTES,
    re.IGNORECASE,
)
DECLARATION = re.compile(
    r"<!doctype\b[^<>]{0,2000}>|<\?xml\b[^<>]{0,2000}>|<!\[(?:if\b[^<>\[\]]{0,200}|endif)\]>",
    re.IGNORECASE,
)
"""Declarations, as Word and Internet Explorer write them too."""
NOT_SHOWN = re.compile(r"<!--|<(script|style|svg)\b[^<>]{0,2000}>", re.IGNORECASE)
"""The beginning of a part that is not shown."""
CODE = re.compile("[{}();=]|//|/[*]|<")
"""Signs of which every script, style or drawing holds some."""
TYPE_PARAMETER = re.compile("(?<=[A-Za-z0-9_])<[ABIQSU]>")
"""A type parameter after a name, as in `List<A>`; as a tag of HTML it would have an end tag."""
ENDS = {
    "<!--": re.compile("-->"),
    **{name: re.compile(rf"</{name}\s*>", re.IGNORECASE) for name in ("script", "style", "svg")},
}
ESCAPED = re.compile(r"&lt;(?:/[a-z][a-z0-9]{0,15}|br\s?/?)&gt;", re.IGNORECASE)
"""The end of an element, or a line break, of HTML that was escaped whole, as feeds hold it."""
ENTITY = re.compile(r"&(?:#[0-9]{1,8}|#[xX][0-9a-fA-F]{1,8}|[a-zA-Z][a-zA-Z0-9]{1,31});?")
SURROGATES = re.compile(
    r"&#(?:[xX]([dD][89abAB][0-9a-fA-F]{2})|(5529[6-9]|55[3-9]\d\d|56[0-2]\d\d|563[01]\d));"
    r"&#(?:[xX]([dD][c-fC-F][0-9a-fA-F]{2})|(563[2-9]\d|56[4-9]\d\d|57[0-2]\d\d|573[0-3]\d|5734[0-3]));"
)
"""A character as two entities, one for each half of it in UTF-16, as many programs escape emoji."""
PLAIN_ENTITIES = re.compile(r"&(?:#|lt|gt|amp|quot|nbsp)", re.IGNORECASE)
"""Entities that are taken as such also without a semicolon and before a letter or digit."""
NAME_GOES_ON = re.compile("[a-zA-Z0-9_=]")
PARAMETERS = r"(?:[!-;=?-~]|[^\W\x00-\x7f])*"
ADDRESS = re.compile(
    rf"((?:://|www\.)[!-;=@-~]*(?:[?？]{PARAMETERS})?|[?？][A-Za-z0-9_.%~+-]{{1,64}}={PARAMETERS})"
)
"""The part of a web address that may hold parameters. Before them, it ends at the first character
that is not ASCII; they may hold letters of any script."""


def strip_html(text: str) -> str:
    """Remove tags, comments and scripts, decode entities; a block tag becomes a line feed.

    A text without tags that holds escaped ones is HTML that was escaped once more, as in feeds.
    Where there are tags, escaped ones are what the page shows.
    """
    tags = (BLOCK_TAG, INLINE_TAG)
    if "&" in text and ESCAPED.search(text) and not any(tag.search(text) for tag in tags):
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


def _type_parameters(text: str) -> set[str]:
    """The type parameters in a text: of what looks like one, those without an end tag."""
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
            between = text[found.end() : end.start()]
            if kind != "<!--" and "。" in between and not CODE.search(between):
                continue  # prose that only names the tags around it
            kept.append(text[begin : found.start()])
            begin = end.end()
        else:
            endless.add(kind)
    return "".join([*kept, text[begin:]])


def decode_entities(text: str) -> str:
    """Decode HTML entities; what only looks like one, as `&copy=2` in a web address, is left.

    HTML lets old entities (`&copy`) stand without a semicolon, so parameters of addresses look like
    them. Browsers leave those in the addresses of links as they are; here also those in text.
    """
    parts = ADDRESS.split(SURROGATES.sub(_joined, text))  # every second one is an address
    parts[::2] = [ENTITY.sub(_decoded, part) for part in parts[::2]]
    parts[1::2] = [ENTITY.sub(_decoded_in_address, part) for part in parts[1::2]]
    return "".join(parts)


def _decoded(match: re.Match[str]) -> str:
    """The text of an entity, or of what looks like one and stays."""
    # Without a semicolon, `html` decodes the longest prefix that is an entity.
    decoded = html.unescape(match[0])
    whole = len(decoded) <= 2 and not NAME_GOES_ON.match(match.string, match.end())
    return decoded if whole or PLAIN_ENTITIES.match(match[0]) else _decoded_in_address(match)


def _decoded_in_address(match: re.Match[str]) -> str:
    """The same in a web address, where only an entity with a semicolon is one."""
    decoded = html.unescape(match[0])
    return decoded if match[0].endswith(";") and not decoded.endswith(";") else match[0]


def _joined(match: re.Match[str]) -> str:
    """The character of two surrogates, which `SURROGATES` finds."""
    high, low = (int(half, 16) if half[0] in "dD" else int(half) for half in match.groups() if half)
    return chr(0x10000 + (high - 0xD800) * 0x400 + low - 0xDC00)
