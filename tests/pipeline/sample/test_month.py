"""Entities, documents and sentences of the tagged month."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import CorpusError
from pipeline.sample.month import (
    Word,
    is_headline,
    join_names,
    label,
    parse,
    split_documents,
    split_sentences,
    split_time,
    text_of,
)


def entities(line):
    """(text, type) of the entities, read back from the labels."""
    found = []
    for token, name in zip(*label(parse(line)), strict=True):
        if name.startswith("B-"):
            found.append((token, name[2:]))
        elif name.startswith("I-"):
            assert found[-1][1] == name[2:]
            found[-1] = (found[-1][0] + token, name[2:])
    return found


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("江/nr  泽民/nr  在/p  北京/ns", [("江泽民", "PER"), ("北京", "LOC")]),
        ("江/nr  泽民/nr  李/nr  鹏/nr", [("江泽民", "PER"), ("李鹏", "PER")]),
        ("克林顿/nr  、/w  江/nr  主席/n", [("克林顿", "PER"), ("江", "PER")]),
        ("江苏/ns  邳州市/ns  的/u", [("江苏", "LOC"), ("邳州市", "LOC")]),
        ("新华社/nt  记者/n", [("新华社", "ORG")]),
        ("[中央/n  人民/n  广播/vn  电台/n]nt  说/v", [("中央人民广播电台", "ORG")]),
        ("[北京/ns  大学/n]nt  [李/nr  四/nr]nz", [("北京大学", "ORG"), ("李四", "PER")]),
        ("[[北京/ns  大学/n]nt  附中/n]nt", [("北京大学附中", "ORG")]),
        ("[北京/ns  [李/nr  宁/nr]nz  公司/n]nt", [("北京李宁公司", "ORG")]),
    ],
)
def test_entities(line, expected):
    assert entities(line) == expected


def test_brackets_and_slashes_that_are_words():
    assert text_of(parse("[/w  甲/n  ]/w  //w  １/２/m")) == "[甲]/１/２"


def test_full_width_digits_and_letters_are_folded_in_labelled_text():
    assert label(parse("１２月/t  ＡＢ/nx  ，/w"))[0] == list("12月AB，")


def test_a_line_without_tags_is_an_error():
    with pytest.raises(CorpusError, match="install the right version"):
        parse("没有标记的一行")


@pytest.mark.parametrize(
    ("words", "lengths"),
    [
        (["江", "泽民"], [2]),
        (["克林顿"], [1]),
        (["欧阳", "修"], [2]),
        (["桑普拉斯", "威廉姆斯"], [1, 1]),
        (["陈", "方", "安生"], [3]),
        (["若愚", "肖", "荻"], [1, 2]),
        (["吴", "希曾", "刘", "伯根", "岑红"], [2, 2, 1]),
        (["江", "泽民", "李", "鹏", "乔", "石"], [2, 2, 2]),
    ],
)
def test_names(words, lengths):
    assert join_names(words) == lengths


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("迈向充满希望的新世纪——一九九八年新年讲话（附图片１张）", True),
        ("“法学博士”", True),
        ("本报记者祝谦", True),
        ("（木易摘）", False),
        ("同胞们：", False),
        ("他说：“好。”", False),
        ("月影轻移，", False),
        ("名" * 61, False),
    ],
)
def test_headlines(line, expected):
    assert is_headline(line) is expected


WORDS = st.sampled_from([*"一二。！？”）“，", "标题", "……"]).map(Word)
PARAGRAPHS = st.lists(WORDS, min_size=1, max_size=12)


@given(PARAGRAPHS)
def test_sentences_lose_nothing_and_end_after_closing_marks(paragraph):
    sentences = list(split_sentences(paragraph))
    assert [word for sentence in sentences for word in sentence] == paragraph
    for sentence in sentences[:-1]:
        assert set(text_of(sentence)) & set("。！？…")
        assert sentence[-1].text[0] in "。！？…”）"


@given(st.lists(PARAGRAPHS, max_size=30), st.floats(0.01, 0.99))
def test_documents_and_their_parts_keep_every_paragraph_in_order(paragraphs, share):
    documents = list(split_documents(paragraphs))
    assert [paragraph for document in documents for paragraph in document] == paragraphs
    for document in documents[1:]:
        assert is_headline(text_of(document[0]))
    for document in documents:
        lines = [is_headline(text_of(paragraph)) for paragraph in document]
        assert (False, True) not in itertools.pairwise(lines)
    before, after = split_time(documents, share)
    assert [*before, *after] == documents
    size = [sum(len(text_of(p)) for d in part for p in d) for part in (before, after, after[1:])]
    assert size[2] < share * sum(size[:2]) + 1e-9 or not documents
    assert size[1] >= share * sum(size[:2]) - 1e-9
