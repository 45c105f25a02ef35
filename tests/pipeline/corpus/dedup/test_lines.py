"""Which lines are removed, in cases that can be followed by hand; `test_grouping` has the law."""

import pytest

from pipeline.corpus.dedup import lines
from pipeline.errors import ConfigError
from pipeline.settings.corpus import DedupSettings
from pipeline.settings.reading.config_file import load_config
from tests.pipeline.corpus.dedup.test_grouping import LONG, PARAGRAPHS, run, too_short

THREE = DedupSettings(boilerplate_documents=3)
SHARE, FOOT = "分享到：", "版权所有，未经书面许可不得以任何方式转载或者复制本站的内容。"


def page(number, *around):
    return "\n".join([f"第{number}篇的题目", f"{LONG[number]}", *around])


def test_lines_of_many_documents_are_removed_from_all_of_them(tmp_path):
    chunks = [
        [page(0, SHARE, FOOT), page(1, SHARE, FOOT)],
        [page(2, SHARE, FOOT), page(3, "转载请注明"), page(4, "转载请注明", SHARE)],
    ]
    shown: list = []
    kept, dropped, counts = run(tmp_path, chunks, THREE, shown=shown)
    assert kept == [[page(0), page(1)], [page(2), page(3, "转载请注明"), page(4, "转载请注明")]]
    assert {reason for reason, _ in dropped} == {"boilerplate_line"}
    assert len(dropped) == 7
    assert counts == {"distinct_boilerplate_lines": 2}
    assert shown == [(SHARE, 4), (FOOT, 3)]


def test_documents_count_and_not_occurrences_and_blank_lines_are_left(tmp_path):
    chunks = [[page(0, SHARE, SHARE, SHARE), page(1, "", SHARE), page(2, ""), page(3, "", "")]]
    kept, dropped, _ = run(tmp_path, chunks, THREE)
    assert kept == chunks
    assert not dropped


def test_copies_of_a_document_do_not_make_its_lines_frequent(tmp_path):
    copies = DedupSettings(boilerplate_documents=3, exact_documents=True)
    kept, dropped, _ = run(tmp_path, [[page(0, SHARE)] * 4, [page(1, SHARE)]], copies)
    assert kept == [[page(0, SHARE)], [page(1, SHARE)]]
    assert [reason for reason, _ in dropped] == ["duplicate_document"] * 3


def test_what_boilerplate_leaves_of_a_document_is_checked_again(tmp_path):
    chunks = [[page(0, FOOT), page(1, FOOT)], [f"首页\n{FOOT}", FOOT]]
    kept, dropped, _ = run(tmp_path, chunks, THREE, shortest=8)
    assert kept == [[page(0), page(1)], []]
    assert ("too_short_after_dedup", "1:0") in dropped
    assert ("empty_after_dedup", "1:1") in dropped


def test_a_line_of_many_documents_is_no_repeated_paragraph(tmp_path):
    both = DedupSettings(boilerplate_documents=3, exact_paragraphs=True)
    chunks = [[page(0, FOOT, LONG[5])], [page(1, FOOT, LONG[5]), page(2, FOOT)]]
    kept, dropped, _ = run(tmp_path, chunks, both)
    assert kept == [[page(0, LONG[5])], [page(1), page(2)]]
    assert sorted(reason for reason, _ in dropped) == [
        *["boilerplate_line"] * 3,
        "duplicate_paragraph",
    ]


CHAIN = [[LONG[0], f"{LONG[0]}\n{LONG[1]}"], [f"{LONG[1]}\n{LONG[2]}", f"{LONG[2]}\n{LONG[3]}"]]
"""The second document loses a paragraph to the first one, and is too short then; so the third one
keeps all it has, and so the fourth one is too short."""


def test_the_paragraphs_of_a_document_that_gets_too_short_are_kept_in_the_next_one(tmp_path):
    chunks = [*CHAIN, [f"{LONG[3]}\n{LONG[4]}"]]
    kept, dropped, _ = run(tmp_path, chunks, PARAGRAPHS, shortest=30)
    assert kept == [[LONG[0]], [f"{LONG[1]}\n{LONG[2]}"], [f"{LONG[3]}\n{LONG[4]}"]]
    assert [each for each in dropped if each[0] != "duplicate_paragraph"] == [
        ("too_short_after_dedup", "0:1"),
        ("too_short_after_dedup", "1:1"),
    ]


@pytest.mark.parametrize(
    ("missing", "expected"),
    [(0, [LONG[0], LONG[1], LONG[2]]), (1, [LONG[0], f"{LONG[1]}\n{LONG[2]}"])],
)
def test_one_character_decides_where_a_paragraph_is_kept(tmp_path, missing, expected):
    chunks = [[LONG[0], f"{LONG[0]}\n{LONG[1]}", f"{LONG[1]}\n{LONG[2]}"]]
    kept, _, _ = run(tmp_path, chunks, PARAGRAPHS, shortest=len(LONG[1]) + missing)
    assert kept == [expected]


def test_paragraphs_are_counted_as_lost_when_the_turns_end_too_early(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "TURNS", 1)
    kept, dropped, _ = run(tmp_path, CHAIN, PARAGRAPHS, shortest=30)
    assert kept == [[LONG[0]], []]
    assert [place for reason, place in dropped if reason == "lost_paragraph"] == ["0:1", "1:0"]
    assert [reason for reason, _ in dropped].count("too_short_after_dedup") == 3


def test_paragraphs_are_counted_as_lost_when_another_filter_drops_their_document(tmp_path):
    def check(text, shortest):
        return "few_function_characters" if text == LONG[1] else ""

    chunks = [[LONG[0], f"{LONG[0]}\n{LONG[1]}"], [f"{LONG[1]}\n题"], [LONG[5]]]
    kept, dropped, _ = run(tmp_path, chunks, PARAGRAPHS, check=check)
    assert kept == [[LONG[0]], ["题"], [LONG[5]]]
    assert ("lost_paragraph", "0:1") in dropped
    assert ("few_function_characters_after_dedup", "0:1") in dropped


def test_a_paragraph_counts_as_lost_also_if_the_document_with_its_copy_is_dropped(tmp_path):
    def check(text, shortest):
        filtered = text == f"{LONG[0]}\n{LONG[1]}"
        return "few_function_characters" if filtered else too_short(text, shortest)

    first, dropped_later = LONG[5], f"{LONG[5]}\n{LONG[0]}\n{LONG[1]}"
    chunks = [[first, dropped_later], [f"{LONG[0]}\n{LONG[2]}"], [f"{LONG[2]}\n{LONG[3]}"]]
    kept, dropped, _ = run(tmp_path, chunks, PARAGRAPHS, shortest=30, check=check)
    assert kept == [[first], [], [chunks[2][0]]]
    assert [each for each in dropped if each[0] != "duplicate_paragraph"] == [
        ("lost_paragraph", "0:1"),
        ("few_function_characters_after_dedup", "0:1"),
        ("too_short_after_dedup", "1:0"),
    ]


def test_one_document_is_too_few():
    with pytest.raises(ConfigError, match=r"boilerplate_documents: .*1 would remove all text"):
        load_config(None, ["corpus.dedup.boilerplate_documents=1"])
