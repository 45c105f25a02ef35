import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus.samples.sentences import CLOSERS, sentence_ends


def split_sentences(text, limit):
    """The sentences of a text, stripped, without empty ones."""
    ends = sentence_ends(text, limit)
    pieces = (text[begin:end].strip() for begin, end in pairwise([0, *ends]))
    return [piece for piece in pieces if piece]


@pytest.mark.parametrize(
    "sentences",
    [
        ["今天下雨。", "你去吗？", "不去！"],
        ["他说：“你好。”", "然后走了。"],
        ["“好吧。”，他说，“走。”", "天亮了。"],
        ["我……我不知道。", "真的。"],
        ["他问：“走吗……”", "没人答。"],
        ["他停住了……", "“谁？”", "没人答。"],
        ["真的吗？！！", "是的……"],
        ["（他笑了。）", "雨停了。"],
        ["圆周率是3.14。", "见 www.example.com 等。"],
        ["This is one. ".strip(), "This is two."],
        ["标题", "正文没有句号", "结尾。"],
        ["『好。』", "「行！」", "走。"],
        ["见http://a.cn/?id=1!b。", "去吗?", "去!", "好。"],
        ['"这是对的。"', "他说。", '"走吧。"', '"好。"', "天亮了。"],
        ["他停住了……", '"谁？"', '没人答。"'],
    ],
)
def test_sentences_end_where_a_reader_expects_it(sentences):
    joint = "\n" if sentences[0] == "标题" else " " if sentences[0].isascii() else ""
    assert split_sentences(joint.join(sentences), 128) == sentences


def test_long_sentences_are_cut_at_a_pause_or_at_the_limit():
    text = "一二三，四五六七，八九十。"
    assert split_sentences(text, 8) == ["一二三，", "四五六七，", "八九十。"]
    assert split_sentences("一" * 20, 8) == ["一" * 8, "一" * 8, "一" * 4]


@given(st.text(st.sampled_from('汉字。！？…”“"，\n .a1')), st.integers(2, 20))
def test_ends_ascend_and_no_sentence_exceeds_the_limit(text, limit):
    ends = sentence_ends(text, limit)
    assert ends == sorted(set(ends)) or not text
    assert ends[-1] == len(text)
    assert all(b - a <= limit for a, b in pairwise([0, *ends]))


@given(st.text(st.sampled_from("汉。？…”")))
def test_no_sentence_begins_with_a_closing_mark(text):
    for sentence in split_sentences(text, 1000)[1:]:
        assert sentence[0] not in "”。？"


ONE_BY_ONE = re.compile(
    r"[。！？!?…\n.](?:"
    rf"(?<=[。！？!?])[。！？!?…{CLOSERS}]*+(?![，、；：,])"
    rf"|(?<=…)…*+(?:[{CLOSERS}]++(?![，、；：,。！？!?…])|(?<=……)(?=[“‘「『]))"
    r"|(?<=\n)"
    r"|(?<=[^\W\d]\.)(?=\s))"
)
"""The rule tried at each mark, which takes quadratic time."""


@given(st.text(st.sampled_from("汉。！…”“，\n .a1")))
def test_marks_are_skipped_where_none_of_them_ends_a_sentence(text):
    ends = [match.end() for match in ONE_BY_ONE.finditer(text)]
    assert sentence_ends(text, 10**6) == sorted({*ends, len(text)})


@pytest.mark.parametrize("text", ["！" * 10**6 + "，", "…" * 10**6, "！”" * 10**6 + "，"])
def test_many_marks_that_end_no_sentence_are_read_once(text):
    """At each mark anew, this would take hours."""
    assert sentence_ends(text, 10**7) == [len(text)]


def test_a_straight_quote_in_one_line_does_not_count_in_the_next_one():
    text = '屏幕5"大。\n"好。"他说。'
    assert split_sentences(text, 128) == ['屏幕5"大。', '"好。"', "他说。"]


def test_a_half_width_full_stop_ends_a_sentence():
    assert split_sentences("今天下雨｡“好｡”他说｡", 128) == ["今天下雨｡", "“好｡”", "他说｡"]
