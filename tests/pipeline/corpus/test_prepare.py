"""From texts to shards: what is in them."""

import bz2
import html

import numpy as np
import pytest
import zstandard

from pipeline.corpus import planning, prepare
from pipeline.corpus.run.inputs import list_inputs
from pipeline.corpus.run.passes import Executor
from pipeline.corpus.samples.vocabulary import build_tokenizer
from pipeline.corpus.shards import format as shards
from pipeline.corpus.shards.reader import ShardFolder, flat_pairs
from pipeline.errors import ConfigError, CorpusError, VocabularyError
from pipeline.files.storage import write_whole
from pipeline.settings.corpus import CorpusSettings
from tests.pipeline.corpus import raw
from tests.pipeline.corpus.preparing import IN_PROCESS, SMALL, counting, hashes, run
from tests.pipeline.corpus.raw import write_texts
from tests.reported import Lines


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


@pytest.mark.parametrize("length", [16, 48])
def test_text_without_a_pause_fills_the_samples(vocab, tmp_path, length):
    text = "我们学习中国经济发展" * 100
    source = raw.write(tmp_path / "a.jsonl", raw.jsonl([text]))
    out = tmp_path / "out"
    manifest = run(source, out, vocab, sequence_length=length, pairs={"task": "none"})
    full, rest = divmod(len(text), length - 2)
    lengths = ShardFolder(out).rows(np.arange(manifest.rows)).lengths.tolist()
    assert lengths == [length] * full + [rest + 2] * (rest > 0)


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

    executor = Executor(work, IN_PROCESS.run_tasks)
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


def test_vocabulary_and_dictionary_at_urls(source, vocab, tmp_path):
    words = raw.write(tmp_path / "words.txt", "天地人 1000\n".encode())
    place = f"memory://{tmp_path.name}"
    for path in (vocab, words):
        write_whole(f"{place}/{path.name}", path.read_bytes())
    near = run(source, tmp_path / "near", vocab, user_dictionary=str(words))
    far = run(
        source, tmp_path / "far", f"{place}/{vocab.name}", user_dictionary=f"{place}/words.txt"
    )
    assert far.fingerprint == near.fingerprint
    assert far.shards == near.shards
    for name, error in (("vocab", VocabularyError), ("words", ConfigError)):
        given = {"vocab": vocab, "words": words, name: f"{place}/none.txt"}
        with pytest.raises(error, match=f"{place}/none.txt: no such"):
            run(source, tmp_path / name, given["vocab"], user_dictionary=str(given["words"]))


def test_seed_and_dupe_factor(source, vocab, tmp_path):
    once = run(source, tmp_path / "1", vocab)
    thrice = run(source, tmp_path / "3", vocab, pairs={"dupe_factor": 3})
    assert 2.5 < thrice.rows / once.rows < 3.5
    corpus = CorpusSettings(inputs=(str(source),), **SMALL)
    inputs = list_inputs(corpus)
    prepare.prepare(corpus, tmp_path / "7", vocab, 7, inputs, Lines(), IN_PROCESS)
    assert not set(hashes(tmp_path / "1").values()) & set(hashes(tmp_path / "7").values())


def test_dynamic_masking_leaves_the_masks_out(source, vocab, tmp_path):
    assert run(source, tmp_path / "out", vocab, masking={"mode": "dynamic"}).masks == "none"
    folder = ShardFolder(tmp_path / "out")
    assert len(folder.rows(np.arange(20)).masks.positions) == 0


def test_masks_that_training_draws_change_no_shard(source, vocab, tmp_path):
    def prepared(folder, executor=IN_PROCESS, **masking):
        return run(source, folder, vocab, executor, masking={"mode": "dynamic", **masking})

    before = prepared(tmp_path / "out", probability=0.3)
    changed = {"probability": 0.15, "final_probability": 0.1, "max_ngram": 3, "whole_words": False}
    executor, done = counting()
    assert prepared(tmp_path / "out", executor, **changed) == before
    assert not done
    assert prepared(tmp_path / "other", **changed).shards == before.shards


def test_one_document_alone_is_paired_within_itself_and_reported(vocab, tmp_path):
    source = raw.write(tmp_path / "a.jsonl", raw.jsonl(["".join(write_texts(20))]))
    manifest = run(source, tmp_path / "out", vocab)
    assert manifest.counts["documents_without_partner"] == 1
    folder = ShardFolder(tmp_path / "out")
    assert not folder.rows(np.arange(len(folder))).next_sentence_label.any()


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
    plan = planning.plan(corpus, vocab, 42, list_inputs(corpus))
    told = prepare.summary(plan, tmp_path / "out")
    assert told["state"] == "to do"
    assert told["read"] == f"1 file(s), {source.stat().st_size / 1e6:.1f} MB"
    assert not (tmp_path / "out").exists()
    run(source, tmp_path / "out", vocab)
    assert prepare.summary(plan, tmp_path / "out")["state"].startswith("up to date")


def test_progress_shows_rates_and_totals(source, vocab, tmp_path):
    lines = Lines()
    run(source, tmp_path / "out", vocab, progress=lines)
    assert "work units" in lines[0]
    total = next(number for number, line in enumerate(lines) if "samples in" in line)
    assert lines[1] == "  0%"
    assert all("documents" in line and "MB/s" in line and "left" in line for line in lines[2:total])
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
