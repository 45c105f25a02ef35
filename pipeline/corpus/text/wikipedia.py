"""Articles of a Wikipedia dump (`…-pages-articles.xml.bz2`), read with mwparserfromhell.

The parser comes with the extra `wiki`. Without it a dump is refused; other formats do not need it.
"""

import itertools
import re
import xml.etree.ElementTree
from collections.abc import Iterator
from typing import Any

from pipeline.errors import CorpusError

PAGE = re.compile(rb"<page(?=[\s>])")
PAGE_END = b"</page>"
# Links into these namespaces show pictures and categories, not text.
NAMESPACES = re.compile(
    r"\s*(file|image|category|media|文件|档案|檔案|图像|圖像|图片|圖片|分类|分類)\s*:",
    re.IGNORECASE,
)
MAGIC_WORD = re.compile(
    r"__(?:(?i:NOTOC|FORCETOC|TOC|NOEDITSECTION|NOGALLERY|NOTITLECONVERT|NOTC|NOCONTENTCONVERT"
    r"|NOCC)|NEWSECTIONLINK|NONEWSECTIONLINK|HIDDENCAT|EXPECTUNUSEDCATEGORY|EXPECTUNUSEDTEMPLATE"
    r"|EXPECTED_UNCONNECTED_PAGE|INDEX|NOINDEX|STATICREDIRECT|NOGLOBAL|DISAMBIG|START|END"
    r"|[\u4e00-\u9fff]{2,10})__"
)
"""Behaviour switches of MediaWiki and its extensions; all those in Chinese have one form."""
CONVERSION_MARK = re.compile(r"(-\{|\}-)")
VARIANT = r"zh(?:-(?:hans|hant|cn|tw|hk|mo|my|sg))?"
RULE_END = re.compile(rf";\s*(?=(?:[^;]*=>\s*)?{VARIANT}\s*:|$)", re.IGNORECASE)
RULE = re.compile(rf"\s*(?:[^;]*=>\s*)?({VARIANT})\s*:(.*)", re.IGNORECASE | re.DOTALL)
PREFERRED = ("zh-hans", "zh-cn", "zh-sg", "zh-my")
"""Variants in simplified characters, in the order in which their texts are shown."""
HIDDEN_FLAGS = {"H", "T", "-", "N", "D"}
"""Flags of conversions that show nothing, or a name or list of variants, which is no text."""
NOT_TEXT = {
    *("ref", "table", "gallery", "math", "ce", "chem", "hiero", "timeline", "score", "graph"),
    *("mapframe", "maplink", "syntaxhighlight", "source", "indicator", "includeonly"),
}
"""Tags whose content is no text of the page."""
POSITIONS = {
    **dict.fromkeys(("nowrap", "nobr", "nobold", "small", "big", "ruby", "僻字", "formatnum"), "1"),
    **dict.fromkeys(("sub", "sup", "em", "strong", "code", "mono", "abbr", "nihongo", "val"), "1"),
    **dict.fromkeys(("quote", "cquote", "quotation", "blockquote", "quote box", "flag"), "1"),
    **dict.fromkeys(("lang", "color", "colour", "字体"), "2"),
    "font color": "32",
    **dict.fromkeys(("le", "lj", "internal link helper", "ilh"), "31"),
    **dict.fromkeys(("tsl", "translink"), "432"),
}
"""Templates that show a parameter as it is, or as a link: its number, or numbers to be tried."""
NAMED = ("lt", "text", "quote")
"""Names under which such templates may have the parameter."""
MEASURES = {"convert", "cvt"}
"""Templates that show numbers with their units, and then in other units."""
MEASURE = re.compile(r"([^|]*\d[^|]*)\|(?:([^|]+)\|([^|]*\d[^|]*)\|)?([^|]+)")
"""The parameters of one: a number and its unit, `10|-|20|km` or `5|ft|10|in`."""
LINK_TEMPLATE = re.compile(r"link-[a-z-]{2,}|internal link helper/[a-z-]{2,}")
QUOTES = re.compile(
    r"<(nowiki|pre|code|math)(?:\s[^<>]*)?(?<!/)>.*?</\1>|'{2,}", re.IGNORECASE | re.DOTALL
)
"""Bold and italics, which MediaWiki ends with the line; the parser takes only pairs for marks."""
REMAINS = re.compile(
    r"<!--.*|</?(?:ref|references|nowiki|noinclude|onlyinclude|gallery)(?:\s[^<>\n]*)?/?>",
    re.IGNORECASE | re.DOTALL,
)
"""Tags without a counterpart; a comment without an end goes to the end of the page."""
LINES = {"p", "div", "blockquote", "center", "ul", "ol", "dl", "li", "dd", "dt", "poem", "h2", "h3"}
"""HTML tags whose content stands on lines of its own."""
LIST_MARKS = (";", ":", "*", "#")
"""They begin a line of a list; several of them stand for nested lists."""
LANGUAGE = re.compile(r"\s*(?:[a-z]{2,3}|simple|[a-z]{2,4}(?:-[a-z]+){1,2})\s*:")
"""Links to the article in another language (`[[ja:北京市]]`) are shown beside the page."""
REDIRECT = re.compile(r"\s*#\s*(?:redirect|重定向|重新導向)\s*[:：]?\s*\[\[", re.IGNORECASE)
LINK_TARGET = re.compile(r"\[\[(?:[^\[\]|{}\n-]|-(?!\{)|-\{[^\[\]{}\n]*+\}-)++")
TEMPLATE = "\0"
"""Stands where a template was, until the text is whole; XML can't hold this character."""
AROUND_TEMPLATE = re.compile(f"([（(]?)([{TEMPLATE} ，、；：,;:]+)([）)]?)")
EMPTY_LINES = re.compile("\n{3,}")
OPEN_TEMPLATE = re.compile(r"\{\{[^\[\]{}|]*")


class MalformedPage(ValueError):
    """A page element that is not valid XML or wiki markup."""


def pages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Page elements of part of a dump, each with the byte at which it begins.

    One without an end goes up to the next one, and is no valid XML.
    """
    begins = [match.start() for match in PAGE.finditer(data)]
    for begin, following in itertools.pairwise([*begins, len(data)]):
        end = data.find(PAGE_END, begin, following)
        yield begin, data[begin : following if end < 0 else end + len(PAGE_END)]


def page_text(page: str) -> str:
    """Plain text of an article after its title; empty for redirects and other namespaces.

    Raises:
        MalformedPage: the element is not valid XML or wiki markup.
        CorpusError: mwparserfromhell is not installed.
    """
    try:
        element = xml.etree.ElementTree.fromstring(page)
    except xml.etree.ElementTree.ParseError as error:
        raise MalformedPage(str(error)) from None
    revisions = element.findall("revision")  # the last one is the newest
    source = revisions[-1].findtext("text") or "" if revisions else ""
    if element.findtext("ns", "0") != "0" or element.find("redirect") is not None:
        return ""
    if not source or REDIRECT.match(source):
        return ""
    return f"{element.findtext('title', '')}\n{plain_text(source)}"


def plain_text(wikitext: str) -> str:
    """Wiki markup to text, without templates, tables, references, pictures and categories."""
    try:
        import mwparserfromhell
    except ImportError:
        raise CorpusError(
            "corpus.format wikidump needs mwparserfromhell: pip install 'nezha-pretrain[wiki]', or "
            "run WikiExtractor on the dump and give its output as corpus.inputs"
        ) from None
    wikitext = QUOTES.sub(_without_quotes, wikitext)
    # A link to a page may not have braces in its name, unless they are a conversion.
    wikitext = LINK_TARGET.sub(lambda match: show_conversions(match[0]), wikitext)
    try:
        code = mwparserfromhell.parse(wikitext)
    except mwparserfromhell.parser.ParserError as error:
        raise MalformedPage(str(error)) from None
    _prune(code)
    text = code.strip_code(normalize=True, collapse=False)
    if "&#" in wikitext:  # an entity may stand for half of a character
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    text = AROUND_TEMPLATE.sub(_without_template, REMAINS.sub("", text))
    text = EMPTY_LINES.sub("\n\n", text.strip("\n"))
    return MAGIC_WORD.sub("", without_rows(show_conversions(text)))


def _prune(code: Any) -> None:
    """Remove what is no text from parsed markup, at all depths, and put line ends around blocks."""
    from mwparserfromhell import nodes

    kept: list[Any] = []
    for node in code.nodes:
        if isinstance(node, nodes.Wikilink):
            title = str(node.title)
            if node.text is not None and not node.text.strip():  # `[[北京|]]` shows the title
                node.text = None
            if NAMESPACES.match(title) or (node.text is None and LANGUAGE.match(title)):
                continue
            if title.startswith(":"):  # a link to a page of pictures, categories, languages
                node.title = title.lstrip(": ")
            inner = node.text
        elif isinstance(node, nodes.Tag):
            name = str(node.tag).strip().lower()
            if name in NOT_TEXT:
                continue
            inner = node.contents
            if name == "br" or (name in LINES and not node.wiki_markup):
                kept.append(nodes.Text("\n"))
                if inner is not None:
                    _prune(inner)
                kept += [node, nodes.Text("\n")] if name != "br" else []
                continue
            # `;term:explanation` on one line is shown on two.
            if name == "dd" and kept and not str(kept[-1]).endswith(("\n", *LIST_MARKS)):
                kept.append(nodes.Text("\n"))
        elif isinstance(node, nodes.Template):
            shown = _parameter(node)
            if shown is None:
                kept.append(nodes.Text(TEMPLATE))
            else:
                _prune(shown)
                kept += shown.nodes
            continue
        elif isinstance(node, nodes.Heading | nodes.ExternalLink):
            inner = node.title
        else:
            inner = None
        if inner is not None:
            _prune(inner)
        kept.append(node)
    code.nodes = kept


def _without_quotes(match: re.Match[str]) -> str:
    """What replaces a match of `QUOTES`: a tag stays; marks go, but the first of four quotes."""
    return match[0] if match[1] else "'" * (len(match[0]) == 4)


def _parameter(template: Any) -> Any:
    """The parameter that a template shows as it is; None if it is not known to show one.

    Links to articles that exist in another language only, as `{{link-en|演算法|Algorithm}}`, are
    parts of sentences.
    """
    name, colon, after = str(template.name).strip().lower().partition(":")
    if colon and POSITIONS.get(name) == "1":
        return _parsed(after)
    numbers = "31" if LINK_TEMPLATE.fullmatch(name) else POSITIONS.get(name, "")
    if name in MEASURES:
        values = [str(each.value).strip() for each in template.params if not each.showkey]
        measure = MEASURE.match("|".join(values))
        return _parsed(" ".join(filter(None, measure.groups()))) if measure else None
    found = (template.get(number).value for number in (*NAMED, *numbers) if template.has(number))
    return next((each for each in found if numbers and each.strip()), None)


def _parsed(wikitext: str) -> Any:
    import mwparserfromhell

    return mwparserfromhell.parse(wikitext)


def _without_template(match: re.Match[str]) -> str:
    """The signs around a removed template, without brackets that it alone filled (`（，）`)."""
    begin, signs, end = match.groups()
    if TEMPLATE not in signs:
        return match[0]
    if begin and end:
        return ""
    return begin + end or signs.replace(TEMPLATE, "")


def without_rows(text: str) -> str:
    """The text without rows of tables, and parameters of templates, that begin or end nowhere."""
    if "|" not in text and "{{" not in text:
        return text
    kept, inside = [], False
    for line in text.split("\n"):
        start = line.lstrip(" :")
        if start.startswith(("{|", "|-", "|+", "|}")) or OPEN_TEMPLATE.fullmatch(start):
            inside = not start.startswith("|}")
        elif not inside or not start.startswith(("|", "!")):
            inside = inside and not start
            kept.append(line)
    return "\n".join(kept)


def show_conversions(text: str) -> str:
    """Replace conversions between variants of Chinese, `-{flags|rules}-`, by what a reader sees.

    Conversions may be nested. One that does not end is text.
    https://www.mediawiki.org/wiki/Writing_systems/Syntax
    """
    levels: list[list[str]] = [[]]
    for part in CONVERSION_MARK.split(text):
        if part == "-{":
            levels.append([])
        elif part == "}-" and len(levels) > 1:
            content = "".join(levels.pop())
            levels[-1].append(_shown(content))
        else:
            levels[-1].append(part)
    return "-{".join(map("".join, levels))


def _shown(content: str) -> str:
    """The text that a reader sees of a conversion.

    Of rules (`zh-hans:计算机; zh-hant:電腦`) it is the text of the first of the `PREFERRED`
    variants that has one, else the first text.

    A variant as a flag (`-{zh-hans|计算机}-`) and the flag R say that the text contains no rules.
    """
    before, bar, after = content.partition("|")
    flags = {flag.strip() for flag in before.split(";")} if bar else set()
    text = after if bar else content
    if flags & HIDDEN_FLAGS:
        return ""
    if "R" in flags or any(re.fullmatch(VARIANT, flag, re.IGNORECASE) for flag in flags):
        return text
    rules = [RULE.fullmatch(rule) for rule in RULE_END.split(text) if rule.strip()]
    if not all(rules):
        return text
    shown = {rule[1].lower(): rule[2].strip() for rule in rules if rule and rule[2].strip()}
    return next((shown[variant] for variant in (*PREFERRED, *shown) if variant in shown), "")
