"""What is left out of a corpus: it is counted, told, and kept if that is wanted."""

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.corpus import planning, prepare
from pipeline.corpus.run.inputs import list_inputs
from pipeline.corpus.shards import format as shards
from pipeline.errors import CorpusError
from pipeline.settings.corpus import CorpusSettings
from tests.pipeline.corpus import raw
from tests.pipeline.corpus.preparing import SMALL, counting, run
from tests.pipeline.corpus.raw import write_texts
from tests.reported import Lines


def test_a_folder_for_dropped_text_that_is_named_later_gets_all_of_it(vocab, tmp_path):
    source = raw.write(tmp_path / "a.jsonl", raw.jsonl([*write_texts(60), "短"] * 3))
    settings = {"shard_megabytes": 0.005, "dedup": {"exact_documents": True}}
    keeping = {**settings, "keep_rejected": str(tmp_path / "kept")}
    run(source, tmp_path / "whole", vocab, **{**settings, "keep_rejected": str(tmp_path / "all")})

    def kept(folder):
        return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*.jsonl")}

    # The first start is stopped and keeps nothing; the second one is stopped and keeps it.
    stop = len(list((tmp_path / "whole").glob("*.arrow"))) + 6
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out", vocab, counting(stop)[0], **settings)
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out", vocab, counting(1)[0], **keeping)
    run(source, tmp_path / "out", vocab, **keeping)
    assert kept(tmp_path / "kept") == kept(tmp_path / "all")
    # A finished corpus is made again for it.
    finished = run(source, tmp_path / "done", vocab, **settings)
    again = {**settings, "keep_rejected": str(tmp_path / "later")}
    corpus = CorpusSettings(**{"inputs": (str(source),), **SMALL, **again})
    planned = planning.plan(corpus, vocab, 42, list_inputs(corpus))
    assert prepare.summary(planned, tmp_path / "done")["state"] == "to do"
    assert run(source, tmp_path / "done", vocab, **again).shards == finished.shards
    assert kept(tmp_path / "later") == kept(tmp_path / "all")
    assert prepare.summary(planned, tmp_path / "done")["state"].startswith("up to date")


def test_every_drop_is_counted_and_can_be_kept(vocab, tmp_path):
    good = write_texts(40)
    bad = raw.jsonl(["短", "English only, no Chinese here", good[0]]) + b"{]\n\xff\xff\n"
    source = raw.write(tmp_path / "in" / "a.jsonl", raw.jsonl(good) + bad)
    raw.write(tmp_path / "in" / "empty.jsonl", b"")
    broken = raw.write(tmp_path / "in" / "z.jsonl.gz", raw.jsonl(write_texts(200, seed=1)))
    broken.write_bytes(broken.read_bytes()[:-2000])
    rejected = tmp_path / "rejected"
    lines = Lines()
    manifest = run(
        source.parent,
        tmp_path / "out",
        vocab,
        dedup={"exact_documents": True},
        keep_rejected=str(rejected),
        progress=lines,
    )
    expected = {
        "too_short": 1,
        "not_chinese": 1,
        "malformed": 1,
        "undecodable": 1,
        "duplicate_document": 1,
        "damaged_file": 1,
    }
    assert manifest.drops == {**expected, "empty_file": 1}
    kept = {
        folder.name: [json.loads(line) for file in folder.iterdir() for line in file.open()]
        for folder in rejected.iterdir()
    }
    assert {reason: len(rows) for reason, rows in kept.items()} == expected
    assert kept["malformed"][0]["text"] == "{]"
    assert kept["undecodable"][0]["source"].startswith(str(source))
    assert (tmp_path / "out" / "duplicates.jsonl").exists()
    told = [line for line in lines if line.startswith("unreadable: ")]
    assert "malformed: not valid JSON: Expecting property name" in told[0]
    assert told[1].endswith(": undecodable")
    assert f"{broken}: byte" in told[2]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (os.urandom(200_000), r"\d+% of the input is unreadable"),
        (b'{"text": 1}\n' * 1000 + raw.jsonl(write_texts(20)), "1,000 malformed documents"),
        (raw.jsonl(["a", "b"]), r"1 file\(s\) gave no sample; dropped: {'too_short': 2}"),
    ],
)
def test_too_much_garbage_stops_the_preparation(vocab, tmp_path, data, message):
    source = raw.write(tmp_path / "a.jsonl", data)
    executor, done = counting()
    with pytest.raises(CorpusError, match=message):
        run(source, tmp_path / "out", vocab, executor)
    assert not (tmp_path / "out" / "manifest.json").exists()
    if "unreadable" in message:
        assert sum(result.chunk >= 0 for result in done) < 0.7 * 200_000 / 10_000


@pytest.mark.parametrize(
    ("others", "dedup"),
    [
        ([f"This is document number {n}, in English." for n in range(300)], {}),
        (write_texts(1) * 300, {"exact_documents": True}),
    ],
)
def test_documents_that_filters_drop_count_as_read(vocab, tmp_path, others, dedup):
    texts = [*others, *write_texts(20, seed=1)]
    source = raw.write(tmp_path / "a.jsonl", b'{"text": null}\n' * 30 + raw.jsonl(texts))
    assert run(source, tmp_path / "out", vocab, max_bad_share=0.1, dedup=dedup).drops["malformed"]
    with pytest.raises(CorpusError, match=r"^9% of the input is unreadable or malformed"):
        run(source, tmp_path / "out2", vocab, max_bad_share=0.08, dedup=dedup)


def test_garbage_below_the_limit_is_only_counted(vocab, tmp_path):
    source = raw.write(tmp_path / "a.jsonl", b"{\n" * 50 + raw.jsonl(write_texts(100)))
    assert run(source, tmp_path / "out", vocab).drops == {"malformed": 50}
    with pytest.raises(CorpusError, match=r"more than corpus\.max_bad_share"):
        run(source, tmp_path / "out2", vocab, max_bad_share=0.1)


def test_what_paragraph_deduplication_leaves_is_checked_again(vocab, tmp_path):
    good = "我们今天来到北京大学图书馆看书学习中国经济发展。"
    documents = [good, f"{good}\n我们。", f"{good}\n我们学习经济发展。", good]
    source = raw.write(tmp_path / "a.jsonl", raw.jsonl(documents))
    manifest = run(source, tmp_path / "out", vocab, dedup={"exact_paragraphs": True})
    assert manifest.drops == {
        "duplicate_paragraph": 3,
        "empty_after_dedup": 1,
        "too_short_after_dedup": 1,
    }
    assert manifest.counts["documents"] == 2


def test_lines_of_many_documents_are_removed_counted_and_shown(vocab, tmp_path):
    texts = write_texts(12)
    foot = "版权所有，未经许可不得转载。"
    documents = [f"分享到：\n{text}\n{foot}" for text in texts[:5]]
    documents += [f"分享到：\n{text}" for text in texts[5:8]] + [f"分享到：\n{foot}", *texts[8:]]
    source = raw.write(tmp_path / "a.jsonl", raw.jsonl(documents))
    settings = {"shard_megabytes": 0.001, "dedup": {"boilerplate_documents": 6}}
    kept = Lines()
    rejected = tmp_path / "rejected"
    manifest = run(
        source, tmp_path / "out", vocab, keep_rejected=str(rejected), progress=kept, **settings
    )
    assert manifest.drops == {"boilerplate_line": 15, "empty_after_dedup": 1}
    assert manifest.boilerplate == (("分享到：", 9), (foot, 6))
    assert manifest.counts["distinct_boilerplate_lines"] == 2
    assert len(manifest.shards) > 2
    assert f"lines that were removed from most documents: 分享到： (9), {foot} (6)" in kept
    rows = [
        json.loads(row) for file in (rejected / "boilerplate_line").iterdir() for row in file.open()
    ]
    assert sorted({row["text"] for row in rows}) == ["分享到：", foot]
    plain = raw.write(tmp_path / "b.jsonl", raw.jsonl(texts))
    same = run(plain, tmp_path / "plain", vocab, shard_megabytes=0.001)
    for count in ("characters", "tokens", "documents"):
        assert manifest.counts[count] == same.counts[count]
    assert shards.read_manifest(tmp_path / "out") == manifest


def test_lost_paragraphs_are_told(vocab, tmp_path):
    prose = "我们今天来到北京大学图书馆看书学习中国经济发展。"
    names = "张伟李娜刘洋陈静杨帆黄磊周杰吴迪徐峰孙悦马超朱琳胡兵"
    documents = [prose * 2, f"{prose * 2}\n{names}", f"{names}\n{prose}我们。"]
    source = raw.write(tmp_path / "a.jsonl", raw.jsonl([*documents, *write_texts(5)]))
    told = Lines()
    manifest = run(
        source,
        tmp_path / "out",
        vocab,
        progress=told,
        dedup={"exact_paragraphs": True},
        cleaning={"min_function_characters": 0.01},
    )
    assert manifest.drops == {
        "duplicate_paragraph": 2,
        "few_function_characters_after_dedup": 1,
        "lost_paragraph": 1,
    }
    assert names in manifest.dropped["lost_paragraph"][0]
    assert any(line.startswith("1 paragraph(s) are lost") for line in told)


def test_a_paragraph_whose_first_document_is_held_out_is_kept_and_held_out_text_is_not(
    vocab, tmp_path
):
    shared = "我们今天来到北京大学图书馆看书学习中国经济发展。"
    secret = "他们今天来到北京大学图书馆看书学习中国经济发展的天气。"
    texts = write_texts(6)
    documents = [f"{shared}\n{texts[0]}", f"{shared}\n{secret}", f"{secret}\n{texts[1]}"]
    source = raw.write(tmp_path / "a.jsonl", raw.jsonl([*documents, *texts[2:]]))
    heldout = raw.write(tmp_path / "h.jsonl", raw.jsonl([f"{shared}\n{secret}"]))
    settings = {"heldout": (str(heldout),), "pairs": {"task": "none"}}
    manifest = run(source, tmp_path / "out", vocab, dedup={"exact_paragraphs": True}, **settings)
    # The held-out document is found whole, although its first paragraph is a repetition.
    assert manifest.drops == {"heldout_document": 1}
    assert manifest.counts["documents"] == 6


def test_empty_files_are_counted_once_each(source, vocab, tmp_path):
    raw.write(source.parent / "b.jsonl", b"")
    for name in "cde":
        raw.write(source.parent / f"{name}.jsonl.gz", b"")
    assert run(source.parent, tmp_path / "out", vocab).drops == {"empty_file": 4}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("b.txt", "\ufeff\n\n \u3000\r\n\n".encode()),
        ("b.jsonl.gz", b"\n \n\0\n"),
        ("b.csv", b"id,text\n"),
        ("b.xml", b"<mediawiki>\n</mediawiki>\n"),
        ("b.parquet", None),
        ("groups.parquet", None),
    ],
)
def test_a_file_that_holds_nothing_is_counted_as_empty(source, vocab, tmp_path, name, data):
    path = raw.write(source.parent / name, data or b"")
    if data is None:
        table = pa.table({"text": pa.array([], pa.string())})
        with pq.ParquetWriter(path, table.schema) as writer:
            for _ in range(2 * name.startswith("groups")):
                writer.write_table(table)
    assert run(source.parent, tmp_path / "out", vocab).drops == {"empty_file": 1}


def test_an_error_for_malformed_objects_names_their_fields(vocab, tmp_path):
    rows = '{"content": "正文", "id": 1}\n{"text": ["a", 1]}\n{"text": "没有结束\n'
    source = raw.write(tmp_path / "a.jsonl", rows.encode())
    with pytest.raises(CorpusError, match="malformed") as caught:
        run(source, tmp_path / "out", vocab)
    message = str(caught.value)
    assert (
        f"{source}:0: malformed: no field 'text'; set corpus.text_field to one of: content, id"
        in message
    )
    assert "malformed: field 'text' is no text" in message
    assert "malformed: not valid JSON: Unterminated string" in message


@pytest.mark.parametrize(
    ("name", "data", "fault"),
    [
        ("a.jsonl", '[{"text": "甲"}]\n[]\n', "expected an object of JSON, as {…}"),
        ("a.jsonl", "{'text': '甲'}\n", "not valid JSON: Expecting property name"),
        ("a.jsonl", '{"text": "甲\\ud83d"}\n', "field 'text' is no text, or it holds half of a"),
        ("a.csv", "id,text\n1\n2,甲,乙\n", "a row with a quote that is not closed, or without"),
        ("a.xml", "<rss><title>甲</title></rss>", "XML without <mediawiki>"),
        ("wiki_00", "甲\n", "text outside of <doc …> and </doc>"),
    ],
)
def test_an_error_says_what_is_malformed(vocab, tmp_path, name, data, fault):
    source = raw.write(tmp_path / "in" / name, data.encode())
    with pytest.raises(CorpusError, match="% of the input is unreadable or malformed") as caught:
        run(source, tmp_path / "out", vocab)
    assert f"malformed: {fault}" in str(caught.value)


def test_an_error_says_what_a_column_holds_instead_of_text(vocab, tmp_path):
    table = pa.table({"text": pa.array([None, 1])})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match=r"^100% of the input") as caught:
        run(tmp_path / "a.parquet", tmp_path / "out", vocab)
    assert "a.parquet:0: malformed: the column holds null, not text" in str(caught.value)
    assert "a.parquet:1: malformed: the column holds int, not text" in str(caught.value)


def test_an_error_for_documents_that_are_all_held_out_says_so(source, vocab, tmp_path):
    copy = raw.write(tmp_path / "heldout" / "b.jsonl", source.read_bytes())
    with pytest.raises(CorpusError, match=r"also stand in corpus\.heldout") as caught:
        run(source, tmp_path / "out", vocab, heldout=(str(copy),))
    assert "corpus.format" not in str(caught.value)
