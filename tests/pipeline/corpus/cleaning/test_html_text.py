import pytest

from pipeline.corpus.cleaning.cleaner import collapse_whitespace
from pipeline.corpus.cleaning.html_text import decode_entities, strip_html


def test_html():
    page = (
        "<!-- x --><script type='a'>if (a<b) {}</script><div class='c'>第一段&nbsp;&amp;</div>"
        "<p>第<b>二</b>段<br/>换行</p>1 &lt; 2"
    )
    assert collapse_whitespace(strip_html(page)) == "第一段 &\n第二段\n换行\n1 < 2"


@pytest.mark.parametrize(
    ("page", "shown"),
    [
        ("<!DOCTYPE html><?xml version='1.0'?><main><nav>首页</nav>正<wbr>文</main>", "首页\n正文"),
        ("<figure><figcaption>图</figcaption></figure><aside>侧</aside>", "图\n侧"),
        ("<ruby>漢<rp>(</rp><rt>hàn</rt><rp>)</rp></ruby><time>今天</time>", "漢(hàn)今天"),
        ("<select><option value='1'>甲<option>乙</select><button>按</button>", "甲\n乙\n按"),
        ("<details><summary>摘要</summary>详</details><noscript>无</noscript>", "摘要\n详\n无"),
        ('前<svg viewBox="0 0 1 1"><title>图标</title><path d="M0 0"/></svg>后', "前后"),
        ("<video controls><source src=a.mp4>不</video><textarea>文</textarea>", "不\n文"),
        ("前<![CDATA[数<b>据</b><script>x</script>]]>后", "前数据后"),
        ('<a href="b>他说"好"，也说<b c', '他说"好"，也说<b c'),
        ('<p onclick="if(a>b){x}">正文</p>', "正文"),
        ('<a href="a" title="他说"你好"">链接</a>', "链接"),
        ('<img src=a.jpg alt="图<1>" data=\'{"a":"<i>"}\'>图', "图"),
        ('<div data-v-1a2b="" @click="x" :key="i" (b)="c" data_x="1">文</div / >', "文"),
        ("<script>alert(1)\n正文", "alert(1)\n正文"),
        ('<st1:chsdate w:st="on" Year="2008">2008年</st1:chsdate><o:p></o:p>起', "2008年起"),
        ('<?xml:namespace prefix = o ns = "urn:a" /><![if !vml]>正<![endif]>文', "正文"),
        ("<object data=a><param name=b>正</object>文", "正文"),
    ],
)
def test_tags_of_html5_and_attributes_as_pages_have_them(page, shown):
    assert collapse_whitespace(strip_html(page)) == shown


@pytest.mark.parametrize(
    "text",
    [
        "若 a <b 且 c>d，i<s 且 u>v",
        'map<string>，<p 值>，<b @某>，x<i="5">',
        "<!-- 没有结尾",
        '《<a 的"引号">》',
        "若a <b or c> d则，x <i and y> z",
        "泛型List<A>、Set<S>、Box<U>",
        "List<int> x",
        "若 a<b 且 c>d",
        "《<数学>》",
        "AT&T",
    ],
)
def test_what_only_looks_like_a_tag_is_left(text):
    assert strip_html(text) == text


@pytest.mark.parametrize(
    ("feed", "shown"),
    [
        ("&lt;p&gt;正文&lt;/p&gt;1 &amp;lt; 2&amp;nbsp;", "\n正文\n1 < 2\xa0"),
        ("第一行&lt;br/&gt;第二行&lt;script&gt;x&lt;/script&gt;", "第一行\n第二行"),
        ("a &lt; b，b &gt; c", "a < b，b > c"),
        ("<p>用 &lt;b&gt;粗&lt;/b&gt; 表示</p>", "\n用 <b>粗</b> 表示\n"),
    ],
)
def test_html_that_was_escaped_whole(feed, shown):
    assert strip_html(feed) == shown


@pytest.mark.parametrize(
    "part", ["<script>文字", "<!-- ", "<![CDATA[", "<style>", "<p a=", '<a b="<a b=', "<a b='x' "]
)
def test_html_takes_linear_time(part):
    """At 8,000 parts, quadratic time was 5 s; these are 12 times as many."""
    text = part * 100_000 + ">"
    assert len(strip_html(text)) <= len(text)


@pytest.mark.parametrize(
    "text",
    [
        "http://shop.example.cn/i?id=0&copy=2&para_id=7&reg=bj&not=1&times=3&lt=5。",
        "见www.a.cn/i&amp=1&sect=2，以及/list.php?page=3&order=asc&reg",
        "?a=1&#12",
        "参数a=1&copy=2&not_x=3",
        "https://a.cn/搜索?q=中国&lt=2&copy=3&城=京&gt=4，",
        "http://a.cn/？id=1&lt=2&reg=3",
        "AT&T、R&D &c. &copyright &notit; &unknown; & &;",
    ],
)
def test_what_only_looks_like_an_entity_is_left(text):
    assert decode_entities(text) == text
    assert strip_html(text) == text


@pytest.mark.parametrize(
    ("text", "decoded"),
    [
        ("&lt;1&gt; &amp;amp; &quot;&#20013;&#x6587;&quot;&nbsp;&hellip;", '<1> &amp; "中文"\xa0…'),
        ("第一&nbsp第二 a&lt1 &amp& &copy 2020 &copy，&reg", "第一\xa0第二 a<1 && © 2020 ©，®"),
        ("&#20013国&copy;", "中国©"),
        ("&#55362;&#57271;野家 &#xD83D;&#xde00;", "𠮷野家 😀"),
        ("&#55357;&#55357;&#56832;", "\ufffd😀"),
        ("http://a.cn/x中文&copy 2020，a?b=1，&lt1", "http://a.cn/x中文© 2020，a?b=1，<1"),
        ("http://a.cn/?x=1&amp;copy=2&amp;y=3，&copy;", "http://a.cn/?x=1&copy=2&y=3，©"),
    ],
)
def test_entities_are_decoded(text, decoded):
    assert decode_entities(text) == decoded


def test_one_letter_tags_of_html_are_removed():
    page = "<P hidden>甲<A HREF=x>乙</A>X<B>丙</B><a download>丁</a><P>戊"
    assert collapse_whitespace(strip_html(page)) == "甲乙X丙丁\n戊"


def test_text_between_tags_that_are_only_named_is_kept():
    text = "JavaScript写在<script>标签里。中间的正文很长。最后以</script>结束。"
    assert "标签里。中间的正文很长。最后以" in strip_html(text)
    for code in ('var a="好。"', "// 好。", "/* 好。 */", "p { } 好。"):
        assert strip_html(f"前<script>{code}</script>后") == "前后"
