import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.corpus.dedup import marks
from pipeline.corpus.dedup.signatures import sign
from pipeline.corpus.records import Document, Drop
from pipeline.settings.corpus import DedupSettings

EXACT = DedupSettings(exact_documents=True)
PARAGRAPHS = DedupSettings(exact_paragraphs=True)
LONG = [f"这是第{number}个足够长的段落，它的字数超过二十个。" for number in "一二三四五六"]


def each(function, arguments):
    return [function(*one) for one in arguments]


def run(folder, chunks, settings, check=lambda text: "" if text else "empty"):
    """Deduplicate chunks of texts; returns what is kept, what is dropped, and the counts."""
    folder = str(folder)
    documents = [
        [Document(n, text, f"{c}:{n}") for n, text in enumerate(texts)]
        for c, texts in enumerate(chunks)
    ]
    for number, chunk in enumerate(documents):
        signed = sign((document.text for document in chunk), settings)
        places = [document.place for document in chunk]
        marks.write_signatures(folder, str(number), signed, places)
    sizes = {str(number): len(chunk) for number, chunk in enumerate(chunks)}
    report = f"{folder}/report.jsonl"
    counts = marks.find_duplicates(folder, sizes, settings, each, report)
    marks._chunks.cache_clear()
    records = [
        list(marks.without_duplicates(chunk, folder, str(number), check))
        for number, chunk in enumerate(documents)
    ]
    kept = [[record.text for record in chunk if isinstance(record, Document)] for chunk in records]
    drops = [record for chunk in records for record in chunk if isinstance(record, Drop)]
    return kept, [(drop.reason, drop.place) for drop in drops], counts


def test_the_first_of_equal_documents_is_kept(tmp_path):
    kept, dropped, counts = run(tmp_path, [["甲", "乙", "甲"], [], ["丙", "乙", "甲"]], EXACT)
    assert kept == [["甲", "乙"], [], ["丙"]]
    assert dropped == [("duplicate_document", place) for place in ("0:2", "2:1", "2:2")]
    assert counts == {"exact_duplicate_clusters": 2}
    lines = [json.loads(line) for line in (tmp_path / "report.jsonl").read_text().splitlines()]
    assert [(line["source"], line["kept"]) for line in lines] == [
        ("0:2", "0:0"),
        ("2:1", "0:1"),
        ("2:2", "0:0"),
    ]


@settings(max_examples=25)
@given(st.lists(st.lists(st.sampled_from("甲乙丙丁"), max_size=5), min_size=1, max_size=4))
def test_exactly_the_distinct_documents_are_left(tmp_path_factory, chunks):
    kept, dropped, _ = run(tmp_path_factory.mktemp("d"), chunks, EXACT)
    flat = [text for chunk in chunks for text in chunk]
    assert [text for chunk in kept for text in chunk] == list(dict.fromkeys(flat))
    assert len(dropped) == len(flat) - len(set(flat))


def test_near_duplicates_are_dropped_and_their_clusters_counted(tmp_path):
    draw = np.random.default_rng(0)
    letters = draw.integers(0x4E00, 0x9FA5, (4, 400))
    first, second, third, fourth = ("".join(map(chr, row)) for row in letters)
    changed = first[:200] + "改动" + first[202:]
    more = first[:300] + "又改" + changed[302:]
    near = DedupSettings(near_documents=True)
    kept, dropped, counts = run(
        tmp_path, [[first, second, changed], [third, more, fourth, second]], near
    )
    assert kept == [[first, second], [third, fourth]]
    assert dropped == [
        ("near_duplicate_document", "0:2"),
        ("near_duplicate_document", "1:1"),
        ("duplicate_document", "1:3"),
    ]
    assert counts == {"near_duplicate_clusters": 2, "exact_duplicate_clusters": 1}


def test_long_paragraphs_are_kept_once_and_short_ones_always(tmp_path):
    chunks = [[f"题\n{LONG[0]}\n{LONG[1]}"], [f"题\n{LONG[1]}\n{LONG[2]}\n{LONG[2]}", LONG[0]]]
    kept, dropped, _ = run(tmp_path, chunks, PARAGRAPHS)
    assert kept == [[f"题\n{LONG[0]}\n{LONG[1]}"], [f"题\n{LONG[2]}"]]
    assert [reason for reason, _ in dropped] == ["duplicate_paragraph"] * 3 + ["empty_after_dedup"]


def test_what_is_left_of_a_document_is_checked_again(tmp_path):
    chunks = [[LONG[0], f"题\n{LONG[0]}", f"题目\n{LONG[0]}\n{LONG[1]}", "短"]]
    kept, dropped, _ = run(
        tmp_path, chunks, PARAGRAPHS, lambda text: "too_short" if len(text) < 8 else ""
    )
    # "短" is whole: whether it is long enough was decided before.
    assert kept == [[LONG[0], f"题目\n{LONG[1]}", "短"]]
    assert ("too_short_after_dedup", "0:1") in dropped
    assert len(dropped) == 3


def test_a_dropped_document_does_not_make_the_paragraphs_of_a_kept_one_duplicates(tmp_path):
    draw = np.random.default_rng(1)
    body = "".join(map(chr, draw.integers(0x4E00, 0x9FA5, 600)))
    alike = f"{body}\n{LONG[3]}"
    both = DedupSettings(near_documents=True, exact_paragraphs=True)
    kept, _, _ = run(tmp_path, [[body, alike, LONG[3]]], both)
    assert kept == [[body, LONG[3]]]


@settings(max_examples=25)
@given(
    st.lists(st.lists(st.sampled_from(LONG), min_size=1, max_size=4).map("\n".join), max_size=6),
    st.integers(1, 3),
)
def test_the_number_of_partitions_changes_nothing(tmp_path_factory, texts, partitions):
    folder = str(tmp_path_factory.mktemp("d"))
    kept, _, _ = run(folder, [texts], PARAGRAPHS)
    flat = [line for text in texts for line in text.split("\n")]
    assert [line for text in kept[0] for line in text.split("\n")] == list(dict.fromkeys(flat))
    chunks = [marks.SignedChunk("0", 0, 0)]
    found = [marks.repeated_paragraphs(folder, chunks, n, partitions) for n in range(partitions)]
    assert len(np.concatenate(found)) == len(flat) - len(set(flat))


@pytest.mark.parametrize("name", ["exact_documents", "exact_paragraphs", "near_documents"])
def test_each_kind_of_duplicate_can_be_wanted(name):
    assert marks.wanted(DedupSettings(**{name: True}))
    assert not marks.wanted(DedupSettings())
