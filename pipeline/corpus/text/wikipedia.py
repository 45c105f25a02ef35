"""Articles of a Wikipedia dump (`…-pages-articles.xml.bz2`), read with mwparserfromhell.

The parser comes with the extra `wiki`. Without it a dump is refused; other formats do not need it.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree
from collections.abc import Iterator

from pipeline.errors import CorpusError

PAGE = re.compile(rb"<page>.*?</page>", re.DOTALL)
# Links into these namespaces show pictures and categories, not text.
NAMESPACES = re.compile(
    r"\s*(file|image|category|media|文件|档案|檔案|图像|圖像|分类|分類)\s*:", re.IGNORECASE
)
VARIANT = re.compile(r"-\{(?:[^{}|]*\|)?([^{}]*)\}-")
NOT_TEXT = {"ref", "table", "gallery", "math", "timeline", "score", "syntaxhighlight", "source"}


class MalformedPage(ValueError):
    """A page element that is not valid XML."""


def pages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Page elements of part of a dump, each with the byte at which it begins."""
    for match in PAGE.finditer(data):
        yield match.start(), match.group()


def page_text(page: bytes) -> str:
    """Plain text of an article after its title; empty for redirects and other namespaces.

    Raises:
        MalformedPage: the element is not valid XML.
        CorpusError: mwparserfromhell is not installed.
    """
    try:
        element = xml.etree.ElementTree.fromstring(page)
    except xml.etree.ElementTree.ParseError as error:
        raise MalformedPage(str(error)) from None
    source = element.findtext("revision/text") or ""
    if element.findtext("ns", "0") != "0" or element.find("redirect") is not None or not source:
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
    code = mwparserfromhell.parse(wikitext)
    for link in code.filter_wikilinks(recursive=False):
        if NAMESPACES.match(str(link.title)):
            code.remove(link)
    for tag in code.filter_tags(recursive=False):
        if str(tag.tag).lower() in NOT_TEXT:
            code.remove(tag)
    text = code.strip_code(normalize=True, collapse=True)
    # Of language variants, -{zh-hans:计算机; zh-hant:電腦}-, the first one is taken.
    return VARIANT.sub(lambda match: match[1].split(";")[0].rpartition(":")[2], text)
