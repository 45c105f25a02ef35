"""Wiki markup: conversions between variants of Chinese, and behaviour switches."""

import pytest

from pipeline.corpus.text.wikipedia import page_text, plain_text, show_conversions

pytest.importorskip("mwparserfromhell", reason="comes with the extra `wiki`")


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
    assert plain_text(f"{switch}前\n{switch}\n后{switch}").split() == ["前", "后"]


@pytest.mark.parametrize(
    ("markup", "shown"),
    [
        (
            "'''[[文件:a.png|thumb|说明[[甲]]]]'''<small>一<ref>源</ref></small>''二<ref>源</ref>''",
            "一二",
        ),
        ("<div>一[[File:a.png|说明]]<center>[[Category:甲]]</center></div>二", "一 二"),
        ("<blockquote>一\n{|\n|甲\n|}\n</blockquote>\n== [[二]]<ref>源</ref> ==", "一 二"),
        ("[[北京|一<ref>源</ref>]][http://a.cn 二<ref>源</ref>]<ce>H2O</ce>", "一二"),
        ("一<br>二<br/>三<p>四</p><ul><li>五</li><li>六</li></ul>七", "一 二 三 四 五 六 七"),
        ("一\n[[en:Beijing]]\n[[zh-min-nan:Pak-kiann]] [[:分类:二]]", "一 分类:二"),
        ("[[Re:从零开始]][[s:红楼梦|三]][[#四]]", "Re:从零开始三#四"),
        ("[[-{zh-hans:计算机;zh-hant:電腦}-|一]][[-{二}-]][[甲|-{zh-cn:三;zh-tw:參}-]]", "一二三"),
        (";一:二\n;[[三]] : 四\n:五\n:*六\n七:八", "一 二 三 四 五 六 七:八"),
        ("一\n{| class=x\n|-\n! 甲\n| 乙 || 丙\n二", "一 二"),
        ("一\n:{|\n| 甲\n|}\n{|\n| 乙\n{|\n| 丙\n|}\n|}\n二", "一 二"),
        ("{{表头}}\n|-\n| 甲\n|}\n一\n|x| ≥ 0", "一 |x| ≥ 0"),
        ("{{Infobox\n| 甲 = 1\n一", "一"),
    ],
)
def test_what_is_no_text_is_removed_wherever_it_stands(markup, shown):
    assert " ".join(plain_text(markup).split()) == shown


def test_time_is_linear_in_the_length_of_a_page():
    assert plain_text("一<ref>源</ref>[[分类:甲]]" * 4_000) == "一" * 4_000


@pytest.mark.parametrize(
    "text",
    ["#REDIRECT [[甲]]", " # 重定向：[[甲]]", "#重定向[[甲]]\n{{乙}}", "#重新導向 [[甲]]", ""],
)
def test_redirects_of_old_dumps_and_empty_pages_are_no_articles(text):
    page = "<page><title>乙</title>{}<revision><text>{}</text></revision></page>"
    assert page_text(page.format("", text)) == ""
    assert page_text(page.format("<ns>1</ns>", "一")) == ""


def test_of_several_revisions_the_last_one_is_read():
    revisions = "".join(f"<revision><text>{text}</text></revision>" for text in ("旧", "新"))
    assert page_text(f"<page><title>甲</title>{revisions}</page>") == "甲\n新"


def test_other_underscores_are_text():
    assert (
        plain_text("方法__init__和__index__，空格____。") == "方法__init__和__index__，空格____。"
    )


@pytest.mark.parametrize(
    ("markup", "shown"),
    [
        ("北京（{{lang-en|Beijing}}），中国首都。", "北京，中国首都。"),
        ("北京（{{lang-en|Beijing}}；{{bd|1990年}}）是", "北京是"),
        ("北京 ({{lang-en|a}}, {{b}}) 是", "北京  是"),
        ("北京（{{lang-en|Beijing}}，简称京）是", "北京（简称京）是"),
        ("北京（简称京，{{lang-en|Beijing}}）是", "北京（简称京）是"),
        ("北京（简称{{a}}京，都）是", "北京（简称京，都）是"),
        ("长{{foo|5|km}}，宽", "长，宽"),
        ("函数 f() 与（，）和（ ）", "函数 f() 与（，）和（ ）"),
        ("{{Infobox}}\n\n{{b}}\n\n正文。\n\n{{c}}\n\n\n段。", "正文。\n\n段。"),
        ("（{{a}}\n\n正文", "（\n\n正文"),
    ],
)
def test_templates_leave_no_empty_brackets(markup, shown):
    assert plain_text(markup) == shown


@pytest.mark.parametrize(
    ("markup", "shown"),
    [
        ("'''北京是首都\n下一段''斜", "北京是首都\n下一段斜"),
        ("'''''粗斜'''体''，O'Brien", "粗斜体，O'Brien"),
        ("甲''''乙''''", "甲'乙'"),
        ("<nowiki>''甲''</nowiki>''乙''", "''甲''乙"),
        ("甲<nowiki/>''乙\n<nowiki>''</nowiki>", "甲乙\n''"),
        ("甲<ref>源<nowiki/>http://a.cn</ref>乙", "甲乙"),
        ("北京<ref name=a>没有结束\n正文", "北京没有结束\n正文"),
        ("北京</ref>是首都<references>", "北京是首都"),
        ("甲<!-- 乙 -->丙<!-- 没有结束\n丁", "甲丙"),
        ("[[北京|]]和[[上海| ]]", "北京和上海"),
    ],
)
def test_marks_without_a_counterpart_are_not_shown(markup, shown):
    assert plain_text(markup) == shown


def test_characters_that_are_written_as_two_entities():
    """mwparserfromhell leaves two surrogates, which no file can hold."""
    assert plain_text("&#xD842;&#xDFB7;野家&#55357;&#56832;&#55357;。") == "𠮷野家😀\ufffd。"


@pytest.mark.parametrize(
    ("markup", "shown"),
    [
        ("研究{{link-en|演算法|Algorithm}}的人", "研究演算法的人"),
        ("{{le|数学|Math|''数学史''}}和{{Link-ja|东京湾|x}}", "数学史和东京湾"),
        ("{{tsl|en|Foo|本地}}、{{tsl|en|Foo|本地|显示}}、{{tsl|en|Foo}}", "本地、显示、Foo"),
        ("{{internal link helper/en|甲|A|lt=乙}}、{{ilh|lang-code=en|1=丙|2=C}}", "乙、丙"),
        ("{{nowrap|[[张三]]和{{le|李四|Li}}}}说", "张三和李四说"),
        ("{{font color|red|yellow|红}}{{Font color|red|字}}", "红字"),
        ("{{color|red|红}}{{ruby|漢|かん}}{{lang|en|Beijing}}", "红漢Beijing"),
        ("{{formatnum:1234}}人，{{小|大}}，{{lang|en}}，{{nowrap}}", "1234人，，，"),
        ("{{le|-{zh-hans:计算机;zh-hant:電腦}-|x}}", "计算机"),
        ("他说：{{quote|知识就是[[力量]]。|培根}}于是", "他说：知识就是力量。于是"),
        ("{{Cquote|quote=甲}}{{blockquote|text=乙|sign=丙}}", "甲乙"),
        ("H{{sub|2}}O，{{nihongo|东京塔|東京タワー|Tower}}是塔", "H2O，东京塔是塔"),
        ("长{{convert|1,300|mi|km|0}}，", "长1,300 mi，"),
        ("高{{Cvt|10|-|20|m|ft|abbr=on}}。", "高10 - 20 m。"),
        ("身高{{convert|5|ft|10|in|cm}}{{convert|abbr=on}}", "身高5 ft 10 in"),
    ],
)
def test_templates_that_show_a_parameter(markup, shown):
    assert plain_text(markup) == shown
