import json

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.corpus.dedup import grouping, marks
from pipeline.corpus.dedup.array_files import read_arrays
from pipeline.corpus.dedup.clusters import join
from pipeline.corpus.dedup.signatures import Signatures, sign
from pipeline.corpus.randomness import mix
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
    sizes = {}
    for number, chunk in enumerate(documents):
        signed = sign((document.text for document in chunk), settings)
        places = [document.place for document in chunk]
        marks.write_signatures(folder, str(number), signed, places)
        sizes[str(number)] = len(chunk), len(signed.paragraphs)
    report = f"{folder}/report.jsonl"
    counts = grouping.find_duplicates(folder, sizes, settings, each, report)
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


def test_a_dropped_document_does_not_make_the_paragraphs_of_a_kept_one_duplicates(tmp_path):
    draw = np.random.default_rng(1)
    body = "".join(map(chr, draw.integers(0x4E00, 0x9FA5, 600)))
    alike = f"{body}\n{LONG[3]}"
    both = DedupSettings(near_documents=True, exact_paragraphs=True)
    kept, _, _ = run(tmp_path, [[body, alike, LONG[3]]], both)
    assert kept == [[body, LONG[3]]]


SHAPES = st.lists(  # chunks of documents: the values of three bands, and a few paragraphs
    st.lists(
        st.tuples(
            st.tuples(*(st.integers(0, 5) for _ in range(3))),
            st.lists(st.integers(0, 4), max_size=3),
        ),
        max_size=6,
    ),
    min_size=1,
    max_size=7,
)


def expected_marks(shapes):
    """Marks of documents and paragraphs by the definition, with everything in memory."""
    flat = [document for chunk in shapes for document in chunk]
    bands = [bands for bands, _ in flat]
    pairs = [
        (one, other)
        for one in range(len(flat))
        for other in range(one)
        if any(a == b for a, b in zip(bands[one], bands[other], strict=True))
    ]
    near = join(len(flat), [np.array(pairs, np.int64).reshape(-1, 2)])
    exact = [bands.index(each) for each in bands]
    documents = [
        marks.EXACT if exact[n] != n else marks.NEAR if near[n] != n else marks.KEPT
        for n in range(len(flat))
    ]
    seen: set[int] = set()
    repeated = []
    for mark, (_, paragraphs) in zip(documents, flat, strict=True):
        for paragraph in paragraphs:
            repeated.append(mark == marks.KEPT and paragraph in seen)
            if mark == marks.KEPT:
                seen.add(paragraph)
    counts = {"exact": exact, "near": near.tolist()}
    return (
        documents,
        repeated,
        near,
        {
            f"{kind}_duplicate_clusters": len({n for i, n in enumerate(first) if n != i})
            for kind, first in counts.items()
        },
    )


@settings(max_examples=25, deadline=None)
@given(SHAPES, st.sampled_from([1000.0, 0.01, 0.002]))
def test_the_memory_changes_nothing(tmp_path_factory, shapes, megabytes):
    folder = tmp_path_factory.mktemp("d")
    near = DedupSettings(
        near_documents=True, exact_paragraphs=True, bands=3, memory_megabytes=megabytes
    )
    sizes = {}
    for number, chunk in enumerate(shapes):
        values = np.array([bands for bands, _ in chunk], np.uint64).reshape(len(chunk), 3).T
        paragraphs = np.array([p for _, found in chunk for p in found], np.uint64)
        codes = (values * np.array([[1], [10], [100]], np.uint64)).sum(axis=0, dtype=np.uint64)
        signed = Signatures(
            mix(codes + np.uint64(1)),
            mix(values + np.uint64(7)),
            mix(paragraphs + np.uint64(3)),
            np.array([len(found) for _, found in chunk], np.int64),
        )
        places = [f"{number}:{place}" for place in range(len(chunk))]
        marks.write_signatures(str(folder), f"{number}", signed, places)
        sizes[f"{number}"] = len(chunk), len(paragraphs)
    report = folder / "report.jsonl"
    counts = grouping.find_duplicates(str(folder), sizes, near, each, str(report))
    read = [read_arrays(f"{folder}/{name}.marks.npz", "documents", "repeated") for name in sizes]
    documents, repeated, first, expected = expected_marks(shapes)
    assert [mark for chunk, _ in read for mark in chunk] == documents
    assert [again for _, chunk in read for again in chunk] == repeated
    assert counts == expected
    names = [f"{c}:{n}" for c, chunk in enumerate(shapes) for n in range(len(chunk))]
    assert [json.loads(line) for line in report.read_text().splitlines()] == [
        {"source": names[n], "reason": marks.REASONS[mark], "kept": names[first[n]]}
        for n, mark in enumerate(documents)
        if mark != marks.KEPT
    ]


def test_little_memory_makes_many_groups_and_parts(tmp_path):
    sizes = {str(number): (10, 0) for number in range(50)}
    groups = grouping.make_groups(sizes, DedupSettings(memory_megabytes=0.05))
    assert len(groups) > 5
    assert [name for group in groups for name in group.chunks] == list(sizes)
    assert [group.documents[0] for group in groups[1:]] == [
        group.documents[-1] for group in groups[:-1]
    ]
    assert len(grouping.make_groups(sizes, DedupSettings())) == 1
