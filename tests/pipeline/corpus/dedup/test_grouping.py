import json
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.corpus.dedup import grouping, marks, partition
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


def too_short(text, shortest):
    """Why cleaning would drop a text."""
    return "empty" if not text else "too_short" if len(text) < shortest else ""


def run(folder, chunks, settings, shortest=1, check=too_short, shown=None):
    """Deduplicate chunks of texts; returns what is kept, what is dropped, and the counts."""
    shown = [] if shown is None else shown
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
        sizes[str(number)] = len(chunk), len(signed.lines)
    counts = grouping.find_duplicates(folder, sizes, settings, each, shortest)
    records = [
        list(
            marks.without_duplicates(
                chunk, folder, str(number), settings, lambda text: check(text, shortest), shown
            )
        )
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
    lines = [json.loads(line) for line in (tmp_path / marks.REPORT).read_text().splitlines()]
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


ALIKE = st.tuples(*(st.integers(0, 5) for _ in range(3)))
UNLIKE = st.integers(100, 10**9).map(lambda number: (number,) * 3)
SHAPES = st.lists(  # chunks of documents: the values of three bands, and lines
    st.lists(
        st.tuples(st.one_of(UNLIKE, UNLIKE, ALIKE), st.lists(st.integers(0, 6), max_size=4)),
        max_size=6,
    ),
    min_size=1,
    max_size=7,
)
SIZES = (25, 8, 30, 21, 40, 22, 3)
"""Characters of the lines: those of 20 and more are paragraphs."""


def expected_marks(shapes, settings, shortest):
    """Marks of documents and lines by the definition, one document after another."""
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
    counts = {"exact": exact, "near": near.tolist()}
    clusters = {
        f"{kind}_duplicate_clusters": len({n for i, n in enumerate(first) if n != i})
        for kind, first in counts.items()
    }
    return documents, *expected_lines(flat, documents, settings, shortest), near, clusters


def expected_lines(flat, documents, settings, shortest):
    """Marks of the compared lines, and the lines of many documents with their numbers."""
    kept = [n for n, mark in enumerate(documents) if mark == marks.KEPT]
    of = Counter(line for n in kept for line in set(flat[n][1]))
    least = settings.boilerplate_documents or len(flat) + 2
    many = {line: number for line, number in of.items() if number >= least}
    seen: set[int] = set()
    lines: dict[tuple[int, int], int] = {}
    for n in kept:
        here: set[int] = set()
        for place, line in enumerate(flat[n][1]):
            single = not settings.exact_paragraphs or SIZES[line] < 20
            again = not single and line in seen | here
            lines[n, place] = (
                marks.BOILERPLATE if line in many else marks.REPEATED if again else marks.SINGLE
            )
            here |= set() if single or line in many else {line}
        removed = [line for place, line in enumerate(flat[n][1]) if lines[n, place]]
        left = sum(SIZES[line] + 1 for line in flat[n][1]) - 1
        left -= sum(SIZES[line] + 1 for line in removed)
        if removed and left < shortest and settings.exact_paragraphs:
            continue  # dropped: its paragraphs are kept in a later document
        for place, line in enumerate(flat[n][1]):
            later = any(line in flat[other][1] for other in kept if other > n)
            if lines[n, place] == marks.SINGLE and line in here and later:
                lines[n, place] = marks.FIRST
        seen |= here
    compared = [
        lines.get((n, place), marks.SINGLE)
        for n, (_, found) in enumerate(flat)
        for place, line in enumerate(found)
        if settings.boilerplate_documents or SIZES[line] >= 20
    ]
    return compared, many


@settings(max_examples=60, deadline=None)
@given(
    SHAPES,
    st.sampled_from([1000.0, 0.01, 0.002]),
    st.sampled_from([(True, 0), (True, 2), (False, 3), (True, 4)]),
    st.sampled_from([1, 26, 31]),
)
def test_the_memory_changes_nothing(tmp_path_factory, shapes, megabytes, kinds, shortest):
    folder = tmp_path_factory.mktemp("d")
    near = DedupSettings(
        near_documents=True,
        exact_paragraphs=kinds[0],
        boilerplate_documents=kinds[1],
        bands=3,
        memory_megabytes=megabytes,
    )
    sizes = {}
    for number, chunk in enumerate(shapes):
        values = np.array([bands for bands, _ in chunk], np.uint64).reshape(len(chunk), 3).T
        compared = [[n for n in found if kinds[1] or SIZES[n] >= 20] for _, found in chunk]
        lines = np.array([n for found in compared for n in found], np.uint64)
        codes = (values * np.array([[1], [10], [100]], np.uint64)).sum(axis=0, dtype=np.uint64)
        signed = Signatures(
            mix(codes + np.uint64(1)),
            mix(values + np.uint64(7)),
            mix(lines + np.uint64(3)),
            np.array([SIZES[n] for found in compared for n in found], np.int32),
            np.array([len(found) for found in compared], np.int64),
            np.array([sum(SIZES[n] + 1 for n in found) - 1 for _, found in chunk], np.int64),
        )
        places = [f"{number}:{place}" for place in range(len(chunk))]
        marks.write_signatures(str(folder), f"{number}", signed, places)
        sizes[f"{number}"] = len(chunk), len(lines)
    report = folder / marks.REPORT
    counts = grouping.find_duplicates(str(folder), sizes, near, each, shortest)
    read = [marks.read_marks(str(folder), name) for name in sizes]
    documents, lines, many, first, expected = expected_marks(shapes, near, shortest)
    assert [mark for chunk in read for mark in chunk.documents] == documents
    assert [mark for chunk in read for mark in chunk.lines] == lines
    if kinds[1]:
        expected["distinct_boilerplate_lines"] = len(many)
        flat = [[n for _, found in chunk for n in found] for chunk in shapes]
        shown = [
            (of_chunk[place], number)
            for of_chunk, found in zip(flat, read, strict=True)
            for place, number in found.shown.tolist()
        ]
        assert sorted(shown) == sorted(many.items())
    assert counts == expected
    names = [f"{c}:{n}" for c, chunk in enumerate(shapes) for n in range(len(chunk))]
    assert [json.loads(line) for line in report.read_text().splitlines()] == [
        {"source": names[n], "reason": marks.REASONS[mark], "kept": names[first[n]]}
        for n, mark in enumerate(documents)
        if mark != marks.KEPT
    ]


def test_little_memory_makes_many_groups_and_parts(tmp_path):
    sizes = {str(number): (10, 0) for number in range(50)}
    groups = partition.make_groups(sizes, DedupSettings(memory_megabytes=0.05))
    assert len(groups) > 5
    assert [name for group in groups for name in group.chunks] == list(sizes)
    assert [group.documents[0] for group in groups[1:]] == [
        group.documents[-1] for group in groups[:-1]
    ]
    assert len(partition.make_groups(sizes, DedupSettings())) == 1
