"""Wiki markup: conversions between variants of Chinese, and behaviour switches."""

import pytest

from pipeline.corpus.text.wikipedia import plain_text, show_conversions


@pytest.mark.parametrize(
    ("markup", "shown"),
    [
        ("-{zh-hans:计算机; zh-hant:電腦}-", "计算机"),
        ("-{zh-cn:信息;zh-tw:資訊;}-", "信息"),
        ("-{ zh-tw : 資訊 ; zh-cn : 信息 }-", "信息"),
        ("-{zh-hant:電腦;zh-hans:计算机}-", "计算机"),
        ("-{zh-my:甲;zh-cn:乙}-", "乙"),
        ("-{zh-tw:甲;zh-hk:乙;zh-cn:}-", "甲"),
        ("-{zh:一;zh-hk:二}-", "一"),
        ("-{ZH-CN:信息;ZH-TW:資訊}-", "信息"),
        ("-{zh-hans:;zh-hant:後}-", "後"),
        ("-{zh-hans:a;b; zh-hant:c}-", "a;b"),
        ("-{zh-hans:12:30;zh-hant:十二時半}-", "12:30"),
        ("-{甲=>zh-cn:乙;}-", "乙"),
        ("-{A|zh-hans:甲;zh-hant:乙}-", "甲"),
        ("-{H|zh-hans:甲;zh-hant:乙}-", ""),
        ("-{ H | zh-hans:甲;\nzh-hant:乙 }-", ""),
        ("-{T|zh-hans:甲;zh-hant:乙}-", ""),
        ("-{-|zh-hans:甲;zh-hant:乙}-", ""),
        ("-{H;A|zh-hans:甲}-", ""),
        ("-{N|zh-cn}-", ""),
        ("-{R|zh-hans:甲}-", "zh-hans:甲"),
        ("-{zh-hans|计算机}-", "计算机"),
        ("-{zh-hans;zh-hant|文: 字}-", "文: 字"),
        ("-{|zh-hans:甲;zh-hant:乙}-", "甲"),
        ("-{Star Wars: Episode IV}-", "Star Wars: Episode IV"),
        ("-{10:30}-", "10:30"),
        ("-{A; B}-", "A; B"),
        ("-{}-", ""),
        ("-{zh-cn:a-{zh-tw:b}-c}-", "abc"),
        ("-{zh-cn:a-{H|zh-tw:b}-c;zh-tw:d}-", "ac"),
        ("一-{-{-{二}-}-}-三", "一二三"),
        ("没有结束的-{文字", "没有结束的-{文字"),
        ("x-{y} 和-{z}-", "x-{y} 和z"),
        ("和-{z}-，}-", "和z，}-"),
    ],
)
def test_conversions_show_what_a_reader_sees(markup, shown):
    assert show_conversions(markup) == shown


def test_many_conversions_take_linear_time():
    assert show_conversions("-{" * 200_000 + "中" + "}-" * 200_000) == "中"
    assert show_conversions("-{中}-" * 200_000) == "中" * 200_000
    assert show_conversions("-{" * 200_000) == "-{" * 200_000


@pytest.mark.parametrize(
    "switch",
    [
        *("__TOC__", "__NOTOC__", "__notoc__", "__FORCETOC__", "__NOEDITSECTION__"),
        *("__NOCC__", "__NOTC__", "__NOCONTENTCONVERT__", "__NOTITLECONVERT__", "__INDEX__"),
        *("__HIDDENCAT__", "__EXPECTED_UNCONNECTED_PAGE__", "__NEWSECTIONLINK__"),
        *("__无目录__", "__強制目錄__", "__不转换内容__", "__不轉換標題__"),
    ],
)
def test_behaviour_switches_are_no_text(switch):
    pytest.importorskip("mwparserfromhell", reason="comes with the extra `wiki`")
    assert plain_text(f"{switch}前\n{switch}\n后{switch}").split() == ["前", "后"]


def test_other_underscores_are_text():
    pytest.importorskip("mwparserfromhell", reason="comes with the extra `wiki`")
    assert (
        plain_text("方法__init__和__index__，空格____。") == "方法__init__和__index__，空格____。"
    )
