"""Files of Wikipedia: dumps, and what WikiExtractor makes of them."""

import json

import pytest

from pipeline.corpus.text import wikipedia
from pipeline.errors import CorpusError
from tests.pipeline.corpus import raw


def test_both_forms_of_wikiextractor_output(tmp_path):
    marked = '<doc id="1" url="" title="数学">\n数学\n\n数学是研究数量的学科。\n</doc>\n' * 5
    path = raw.write(tmp_path / "wiki_00", marked.encode())
    expected = ["数学\n数学是研究数量的学科。"] * 5
    assert raw.texts(path) == raw.texts(path, shard_megabytes=1e-4) == expected
    rows = [{"id": "1", "title": "数学", "text": "数学是研究数量的学科。"}]
    path = raw.write(tmp_path / "wiki_01.bz2", "\n".join(map(json.dumps, rows)).encode())
    assert raw.texts(path) == ["数学是研究数量的学科。"]


ARTICLES = [f"条目{n}\n第{n}条的正文，很长。" for n in range(10)]


def test_wikiextractors_text_with_revisions_is_known_in_a_renamed_file(tmp_path):
    pages = [f'<doc id="{n}" revid="9" url="u" title="a">\n{ARTICLES[n]}\n</doc>' for n in range(3)]
    assert raw.texts(raw.write(tmp_path / "a.txt", "".join(pages).encode())) == ARTICLES[:3]
    assert raw.texts(raw.write(tmp_path / "b.txt", "\n".join(pages).encode())) == ARTICLES[:3]


MARKED = [f'<doc id="{n}" url="u" title="条目{n}">\n{ARTICLES[n]}\n\n</doc>\n' for n in range(10)]


@pytest.mark.parametrize("target", [16.0, 3e-4])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_wikiextractor_documents_without_an_end_are_kept(tmp_path, target, suffix):
    marked = [*MARKED[:3], MARKED[3].replace("</doc>\n", ""), *MARKED[4:9]]
    for last in (MARKED[9].replace("\n\n</doc>\n", ""), MARKED[9][:-2], MARKED[9] + "\n"):
        path = raw.write(tmp_path / f"wiki_00{suffix}", "".join([*marked, last]).encode())
        documents, dropped = raw.read(path, shard_megabytes=target)
        assert [document.text.removesuffix("\n</doc") for document in documents] == ARTICLES
        assert not dropped


@pytest.mark.parametrize("target", [16.0, 1e-3, 3e-4])
def test_braces_and_tags_in_wikiextractor_text_are_text(tmp_path, target):
    code = '例如：\nint main() {\n return 0;\n}\n{"id": "1"}\n}'
    marked = [text.replace("\n\n</doc>", f"\n{code}\n</doc>") for text in MARKED]
    marked[5] = marked[5].replace("条目5", "{甲}").replace("\n", "\r\n")
    expected = [f"{text}\n{code}" for text in ARTICLES]
    expected[5] = expected[5].replace("条目5", "{甲}")
    path = raw.write(tmp_path / "wiki_00", "".join(marked).encode())
    documents, dropped = raw.read(path, shard_megabytes=target)
    assert [document.text.replace("\r", "") for document in documents] == expected
    assert not dropped
    one_line = '<doc id="1" url="" title="a">一行</doc>\n<doc id="2" url="" title="b">\n尾</doc>\n'
    assert raw.texts(raw.write(tmp_path / "wiki_00", one_line.encode())) == ["一行", "尾"]


@pytest.mark.parametrize("target", [16.0, 3e-4])
@pytest.mark.parametrize("name", ["wiki_00", "all.txt", "all.txt.gz"])
def test_wikiextractor_files_may_be_joined_and_renamed(tmp_path, target, name):
    joined = "".join([*MARKED[:2], MARKED[2].rstrip("\n"), MARKED[3][:-9], *MARKED[4:]])
    assert '</doc><doc id="3"' in joined
    assert '。<doc id="4"' in joined
    path = raw.write(tmp_path / name, joined.encode())
    documents, dropped = raw.read(path, shard_megabytes=target)
    assert [document.text for document in documents] == ARTICLES
    assert not dropped
    place = joined.encode().index(b'<doc id="4"')
    assert documents[4].place == f"{path}:{place}"


def test_text_outside_of_wikiextractor_documents_is_malformed(tmp_path):
    data = f"开头\n{MARKED[0]}中间\n也是\n{MARKED[1]}结尾".encode()
    documents, dropped = raw.read(raw.write(tmp_path / "wiki_00", data))
    assert [document.text for document in documents] == ARTICLES[:2]
    assert [(drop.reason, drop.text) for drop in dropped] == [
        ("malformed", "开头"),
        ("malformed", "中间\n也是"),
        ("malformed", "结尾"),
    ]
    assert dropped[1].place == f"{tmp_path}/wiki_00:{data.index('中间'.encode())}"


def test_a_dump_that_is_cut_or_is_another_kind_of_xml_is_malformed(tmp_path):
    pytest.importorskip("mwparserfromhell", reason="comes with the extra `wiki`")
    page = "<page><title>一</title><ns>0</ns><revision><text>文</text></revision></page>"
    for end in ("<page><title>二</title><ns>0", "\n<page>"):
        path = raw.write(tmp_path / "a.xml", f"<mediawiki>{page}{page}{end}".encode())
        documents, (drop,) = raw.read(path)
        assert [document.text for document in documents] == ["一\n文"] * 2
        assert (drop.reason, drop.text.strip()) == ("malformed", end.strip())
    path = raw.write(tmp_path / "a.xml", "<rss><item>一</item></rss>".encode())
    assert [drop.reason for drop in raw.read(path)[1]] == ["malformed"]
    path = raw.write(tmp_path / "a.xml", f"<mediawiki>{page}</mediawiki>".encode("gb18030"))
    assert raw.texts(path, encoding="gb18030") == ["一\n文"]


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("target", [16.0, 1e-4])
def test_a_page_of_a_dump_without_an_end_costs_no_other_page(tmp_path, target, suffix):
    pytest.importorskip("mwparserfromhell", reason="comes with the extra `wiki`")
    page = "<page>\n<title>{0}</title><ns>0</ns><revision><text>文</text></revision></page>\n"
    pages = [page.format(name) for name in "一二三四五"]
    pages[1] = pages[1].replace("</page>", "")
    pages[3] = "<page><title>四</title><ns>0<mediawiki xml:lang='zh'>\n"  # cut, and files joined
    data = "".join(["<mediawiki>", *pages, "</mediawiki>"]).encode()
    path = raw.write(tmp_path / f"a.xml{suffix}", data)
    documents, dropped = raw.read(path, shard_megabytes=target)
    assert [document.text for document in documents] == ["一\n文", "三\n文", "五\n文"]
    assert [(drop.reason, drop.place) for drop in dropped] == [
        ("malformed", f"{path}:{data.index(pages[number].encode())}") for number in (1, 3)
    ]


def test_pages_of_a_dump_may_have_attributes(tmp_path):
    pytest.importorskip("mwparserfromhell", reason="comes with the extra `wiki`")
    page = "<title>一</title><ns>0</ns><revision><text>文</text></revision></page>"
    path = raw.write(tmp_path / "a.xml", f"<mediawiki><page n='1'>{page}</mediawiki>".encode())
    assert raw.texts(path) == ["一\n文"]


def test_pages_without_an_end_take_linear_time():
    """At 200,000 pages, quadratic time was some minutes."""
    assert len(list(wikipedia.pages(b"<page>" * 200_000))) == 200_000


def test_a_wikipedia_dump_gives_its_articles(tmp_path):
    pytest.importorskip("mwparserfromhell", reason="comes with the extra `wiki`")
    page = (
        "  <page>\n<title>{title}</title><ns>{ns}</ns><revision><text>{text}</text></revision>"
        "\n  </page>\n"
    )
    text = (
        "'''数学'''是[[学科|科学]]。{{模板|参数}}&lt;ref&gt;注&lt;/ref&gt;[[File:a.png|thumb|图]]"
        "\n{|\n| 表\n|}\n[[Category:数学]]-{zh-hans:计算机; zh-hant:電腦}-"
    )
    dump = (
        "<mediawiki>\n"
        + page.format(title="数学", ns=0, text=text)
        + page.format(title="讨论", ns=1, text="不要")
        + page.format(title="坏", ns=0, text="<")
        + "</mediawiki>\n"
    )
    for name in ("d.xml", "d.xml.bz2"):
        path = raw.write(tmp_path / name, dump.encode())
        documents, dropped = raw.read(path, shard_megabytes=1e-4)
        assert [document.text.split() for document in documents] == [
            ["数学", "数学是科学。", "计算机"]
        ]
        assert [drop.reason for drop in dropped] == ["malformed"]


def test_a_dump_without_its_parser_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mwparserfromhell", None)
    with pytest.raises(CorpusError, match=r"nezha-pretrain\[wiki\]"):
        wikipedia.plain_text("数学")


@pytest.mark.parametrize(
    "line",
    ["<doc 里的这一整行都是正文。", '<doc type="a">', "<doc >", '<doc id="3">', "<doc id=1>"],
)
def test_a_line_that_only_begins_like_a_tag_of_wikiextractor_is_text(tmp_path, line):
    marked = [text.replace("\n\n</doc>", f"\n{line}\n后文\n</doc>") for text in MARKED]
    path = raw.write(tmp_path / "wiki_00", "".join(marked).encode())
    documents, dropped = raw.read(path)
    assert [document.text for document in documents] == [
        f"{text}\n{line}\n后文" for text in ARTICLES
    ]
    assert not dropped


@pytest.mark.parametrize("name", ["wiki_00", "a.txt"])
@pytest.mark.parametrize(
    "attributes",
    [
        'id="1" url="u" title="数学"',
        'id="1" revid="3" url="https://zh.wikipedia.org/wiki?curid=1" title="数学"',
        'id="1" title="数学" url="u"',
        'url="u" id="1"',
        'id="1" title="数学"',
        'id="1" url="u" title="引"号" nonfiltered="1" processed="1" dbindex="0"',
        'id="1" url="u" title="a">b"',
        "id='1' url='u' title='数学'",
    ],
)
def test_tags_of_every_version_of_wikiextractor(tmp_path, name, attributes):
    marked = "".join(f"<doc {attributes}>\n{text}\n</doc>\n" for text in ARTICLES)
    documents, dropped = raw.read(raw.write(tmp_path / name, marked.encode()))
    assert [document.text for document in documents] == ARTICLES
    assert not dropped
