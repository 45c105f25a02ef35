"""From texts to shards: what is in them, and what is counted."""

import bz2
import html
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from pipeline.corpus import planning, prepare
from pipeline.corpus.prepare import Executor
from pipeline.corpus.samples.vocabulary import build_tokenizer
from pipeline.corpus.shards import format as shards
from pipeline.corpus.shards.reader import ShardFolder, flat_pairs
from pipeline.corpus.text.sources import list_sources
from pipeline.errors import ConfigError, CorpusError, VocabularyError
from pipeline.settings.corpus import CorpusSettings
from tests.pipeline.corpus import raw
from tests.pipeline.corpus.preparing import IN_PROCESS, SMALL, counting, hashes, run
from tests.pipeline.corpus.raw import write_texts


def test_the_samples_hold_the_text(source, vocab, tmp_path):
    manifest = run(source, tmp_path / "out", vocab, pairs={"task": "none"})
    folder = ShardFolder(tmp_path / "out")
    pairs = flat_pairs(folder.rows(np.arange(len(folder))))
    tokenizer = build_tokenizer(vocab, True)
    special = {tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]")}
    expected = [
        number
        for text in write_texts(300)
        for number in tokenizer.encode(text, add_special_tokens=False).ids
    ]
    assert [number for number in pairs.input_ids.tolist() if number not in special] == expected
    assert manifest.counts["documents"] == 300
    assert manifest.counts["tokens"] == len(expected)
    assert manifest.counts["unknown_tokens"] == expected.count(1)
    assert sum(manifest.unknown.values()) == expected.count(1)
    assert manifest.counts["truncated_tokens"] == 0
    assert not manifest.drops
    assert manifest.masks == "static"


def test_a_finished_folder_is_left_alone_and_a_changed_setting_makes_it_new(
    source, vocab, tmp_path
):
    out = tmp_path / "out"
    first = run(source, out, vocab)
    executor, done = counting()
    # Nothing was dropped, so there is nothing to keep.
    assert run(source, out, vocab, executor, workers=3, keep_rejected=str(tmp_path / "r")) == first
    assert not done
    run(source, out, vocab, executor, sequence_length=32, shard_megabytes=0.05)
    assert done
    again = run(source, out, vocab)
    assert again.shards == first.shards
    assert {path.name for path in out.iterdir()} == {
        "manifest.json",
        *(shard.name for shard in first.shards),
    }


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
    planned = planning.plan(corpus, vocab, 42, list_sources(corpus.inputs, corpus))
    assert prepare.summary(planned, tmp_path / "done")["state"] == "to do"
    assert run(source, tmp_path / "done", vocab, **again).shards == finished.shards
    assert kept(tmp_path / "later") == kept(tmp_path / "all")
    assert prepare.summary(planned, tmp_path / "done")["state"].startswith("up to date")


def test_inputs_give_the_same_bytes_wherever_they_lie(source, vocab, tmp_path):
    other = raw.write(tmp_path / "elsewhere" / "deep" / "a.jsonl", source.read_bytes())
    run(source, tmp_path / "1", vocab)
    run(other, tmp_path / "2", vocab)
    assert hashes(tmp_path / "1") == hashes(tmp_path / "2")


def test_relative_paths_are_those_of_the_caller(source, vocab, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = []

    def work(job, units, workers):
        seen.append(
            (job.folder, job.vocab, job.settings.keep_rejected, units[0].ranges[0].source.path)
        )
        return IN_PROCESS.run(job, units, workers)

    executor = Executor(work, IN_PROCESS.spread)
    run("in", "out", "vocab.txt", executor, keep_rejected="rejected")
    assert all(path.startswith(str(tmp_path)) for path in seen[0])


def test_a_vocabulary_that_changed_under_its_name_counts(source, vocab, tmp_path):
    before = run(source, tmp_path / "1", vocab)
    lines = vocab.read_text("utf-8").splitlines()
    vocab.write_text("\n".join([*lines[:5], *reversed(lines[5:])]) + "\n", "utf-8")
    after = run(source, tmp_path / "1", vocab)
    assert after.vocab_sha256 != before.vocab_sha256
    assert after.content_sha256 != before.content_sha256


def test_shards_and_duplicates_on_an_object_store(source, vocab, tmp_path):
    raw.write(source.parent / "b.jsonl", source.read_bytes())
    settings = {"dedup": {"exact_documents": True, "exact_paragraphs": True}}
    expected = run(source.parent, tmp_path / "out", vocab, **settings)
    manifest = run(source.parent, "memory://bucket/out", vocab, **settings)
    assert manifest.shards == expected.shards
    assert shards.read_manifest("memory://bucket/out") == manifest
    executor, done = counting()
    run(source.parent, "memory://bucket/out", vocab, executor, **settings)
    assert not done


def test_seed_and_dupe_factor(source, vocab, tmp_path):
    once = run(source, tmp_path / "1", vocab)
    thrice = run(source, tmp_path / "3", vocab, pairs={"dupe_factor": 3})
    assert 2.5 < thrice.rows / once.rows < 3.5
    corpus = CorpusSettings(inputs=(str(source),), **SMALL)
    sources = list_sources(corpus.inputs, corpus)
    prepare.prepare(corpus, tmp_path / "7", vocab, 7, sources, print, IN_PROCESS)
    assert not set(hashes(tmp_path / "1").values()) & set(hashes(tmp_path / "7").values())


def test_dynamic_masking_leaves_the_masks_out(source, vocab, tmp_path):
    assert run(source, tmp_path / "out", vocab, masking={"mode": "dynamic"}).masks == "none"
    folder = ShardFolder(tmp_path / "out")
    assert len(folder.rows(np.arange(20)).masks.positions) == 0


def test_one_document_alone_is_paired_within_itself_and_reported(vocab, tmp_path):
    source = raw.write(tmp_path / "a.jsonl", raw.jsonl(["".join(write_texts(20))]))
    manifest = run(source, tmp_path / "out", vocab)
    assert manifest.counts["documents_without_partner"] == 1
    folder = ShardFolder(tmp_path / "out")
    assert not folder.rows(np.arange(len(folder))).next_sentence_label.any()


def test_every_drop_is_counted_and_can_be_kept(vocab, tmp_path):
    good = write_texts(40)
    bad = raw.jsonl(["短", "English only, no Chinese here", good[0]]) + b"{]\n\xff\xff\n"
    source = raw.write(tmp_path / "in" / "a.jsonl", raw.jsonl(good) + bad)
    raw.write(tmp_path / "in" / "empty.jsonl", b"")
    broken = raw.write(tmp_path / "in" / "z.jsonl.gz", raw.jsonl(write_texts(200, seed=1)))
    broken.write_bytes(broken.read_bytes()[:-2000])
    rejected = tmp_path / "rejected"
    lines: list[str] = []
    manifest = run(
        source.parent,
        tmp_path / "out",
        vocab,
        dedup={"exact_documents": True},
        keep_rejected=str(rejected),
        show=lines.append,
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
    assert [line.rpartition(" ")[2] for line in told[:2]] == ["malformed", "undecodable"]
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
    kept: list[str] = []
    rejected = tmp_path / "rejected"
    manifest = run(
        source, tmp_path / "out", vocab, keep_rejected=str(rejected), show=kept.append, **settings
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
    told: list[str] = []
    manifest = run(
        source,
        tmp_path / "out",
        vocab,
        show=told.append,
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


def test_mistakes_are_found_before_anything_is_written(source, vocab, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="no segmenter"):
        run(source, out, vocab, segmenter="none")
    with pytest.raises(VocabularyError, match="no such vocabulary"):
        run(source, out, tmp_path / "other.txt")
    with pytest.raises(CorpusError, match="no such file"):
        run(tmp_path / "missing.jsonl", out, vocab)
    assert not out.exists()


def test_a_plan_shows_what_would_be_done(source, vocab, tmp_path):
    corpus = CorpusSettings(inputs=(str(source),), **SMALL)
    plan = planning.plan(corpus, vocab, 42, list_sources(corpus.inputs, corpus))
    told = prepare.summary(plan, tmp_path / "out")
    assert told["state"] == "to do"
    assert told["read"] == f"1 file(s), {source.stat().st_size / 1e6:.1f} MB"
    assert not (tmp_path / "out").exists()
    run(source, tmp_path / "out", vocab)
    assert prepare.summary(plan, tmp_path / "out")["state"].startswith("up to date")


def test_progress_shows_rates_and_totals(source, vocab, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.corpus.run.progress.QUIET_SECONDS", 0.0)
    lines: list[str] = []
    run(source, tmp_path / "out", vocab, show=lines.append)
    assert "work units" in lines[0]
    total = next(number for number, line in enumerate(lines) if "samples in" in line)
    assert all("documents" in line and "MB/s" in line and "left" in line for line in lines[1:total])
    assert lines[total - 1].startswith("100%")
    assert lines[total + 1].startswith("shares: unknown tokens 0.00% · random pairs ")
    assert lines[total + 2].startswith("masked words by number of tokens: 1: ")


def test_the_shared_corpus(shared, tmp_path):
    with zstandard.open(shared / "corpus" / "corpus.jsonl.zst") as file:
        head = file.read(2_000_000)
    source = raw.write(tmp_path / "a.jsonl", head[: head.rindex(b"\n") + 1])
    settings = {"shard_megabytes": 1.0, "sequence_length": 128}
    manifest = run(source, tmp_path / "out", shared / "vocab" / "vocab.txt", **settings)
    assert manifest.rows > 5000
    assert manifest.counts["truncated_tokens"] < 0.2 * manifest.counts["tokens"]
    assert manifest.counts["unknown_tokens"] < 0.01 * manifest.counts["tokens"]
    assert len(manifest.shards) == 2


def test_a_multistream_wikipedia_dump_becomes_a_corpus(vocab, tmp_path):
    pytest.importorskip("mwparserfromhell", reason="comes with the extra `wiki`")
    texts = write_texts(40)

    def page(number: int, ns: int, extra: str, text: str) -> str:
        return (
            f"  <page>\n    <title>第{number}篇</title>\n    <ns>{ns}</ns>\n    <id>{number}</id>\n"
            f"{extra}    <revision>\n      <id>{number}</id>\n      <model>wikitext</model>\n"
            f'      <text bytes="1" xml:space="preserve">{html.escape(text)}</text>\n'
            "    </revision>\n  </page>\n"
        )

    def marked(text: str) -> str:
        return (
            f"{{{{Infobox|名={{{{lang|zh|坏}}}}}}}}\n'''[[中国|{text[:1]}]]'''{text[1:]}"
            '<ref name="a">坏</ref>\n{| class="wikitable"\n! 坏\n|-\n| 坏\n|}\n[[Category:坏]]\n'
        )

    head = (
        '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" xml:lang="zh">\n'
        "  <siteinfo><sitename>Wikipedia</sitename></siteinfo>\n"
    )
    pages = [page(n, 0, "", marked(text)) for n, text in enumerate(texts)]
    pages.insert(7, page(90, 10, "", texts[0] + "坏"))
    pages.insert(21, page(91, 0, '    <redirect title="第1篇" />\n', "#REDIRECT [[第1篇]]坏"))
    streams = [head, *("".join(pages[i : i + 10]) for i in range(0, 50, 10)), "</mediawiki>\n"]
    path = tmp_path / "in" / "zhwiki-pages-articles-multistream.xml.bz2"
    path.parent.mkdir()
    path.write_bytes(b"".join(bz2.compress(stream.encode()) for stream in streams))
    plain = {"cleaning": {"min_characters": 0}, "pairs": {"task": "none"}}
    got = run(path, tmp_path / "wiki", vocab, format="wikidump", **plain)
    titled = [f"第{n}篇\n{text}" for n, text in enumerate(texts)]
    same = raw.write(tmp_path / "plain.jsonl", raw.jsonl(titled))
    expected = run(same, tmp_path / "plain", vocab, **plain)
    for name in ("documents", "tokens", "words", "unknown_tokens"):
        assert got.counts[name] == expected.counts[name], name
    assert got.drops == {}


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


def test_an_error_for_documents_that_are_all_held_out_says_so(source, vocab, tmp_path):
    with pytest.raises(CorpusError, match=r"also stand in corpus\.heldout") as caught:
        run(source, tmp_path / "out", vocab, heldout=(str(source),))
    assert "corpus.format" not in str(caught.value)
