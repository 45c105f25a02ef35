"""No file is trained on that is held out, or that is no text."""

import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.corpus import prepare
from pipeline.corpus.run.inputs import CACHE, list_inputs
from pipeline.corpus.run.origins import origins_of
from pipeline.corpus.run.passes import Executor
from pipeline.corpus.shards.reader import ShardFolder
from pipeline.errors import ConfigError, CorpusError
from pipeline.settings.corpus import CorpusSettings
from pipeline.settings.reading.config_file import load_config
from tests.pipeline.corpus import raw
from tests.pipeline.corpus.preparing import IN_PROCESS, SMALL, hashes
from tests.pipeline.corpus.raw import write_texts
from tests.reported import Lines, reported


def names(sources):
    return [source.path.rpartition("/")[2] for source in sources]


@pytest.fixture
def data(tmp_path):
    """Ten documents to train on, of which two are held out too."""
    texts = write_texts(10)
    folder = tmp_path / "data"
    raw.write(folder / "a.jsonl", raw.jsonl(texts))
    raw.write(folder / "heldout.jsonl", raw.jsonl([texts[3], texts[7], *write_texts(5, seed=9)]))
    return folder


def settings_of(data, **changes):
    values = {"inputs": (str(data),), "heldout": (str(data / "heldout.jsonl"),), **SMALL, **changes}
    return CorpusSettings(**values)


def run(corpus, out, vocab, progress=None, executor=IN_PROCESS):
    inputs = list_inputs(corpus, [str(out)])
    return prepare.prepare(corpus, out, vocab, 1, inputs, reported(progress), executor)


def link(path):
    os.symlink(path, path.with_name("link.jsonl"))
    return path.with_name("link.jsonl")


@pytest.mark.parametrize(
    "name",
    [
        lambda path: path,
        link,
        lambda path: path.parent / "h*.jsonl",
        lambda path: f"file://{path}",
        lambda path: f"local://{path.parent}//h*.jsonl",
    ],
)
def test_a_held_out_file_under_the_inputs_is_not_trained_on(data, name):
    heldout = name(data / "heldout.jsonl")
    found = list_inputs(settings_of(data, heldout=(str(heldout),)))
    assert names(found.sources) == ["a.jsonl"]
    assert len(found.heldout) == 1
    lines = found.sources.left_out_lines()
    assert any("named by corpus.heldout: " in line and "heldout.jsonl" in line for line in lines)


def test_a_url_of_a_local_file_is_another_name_for_it(data):
    raw.write(data / "out" / "b.jsonl", raw.jsonl(write_texts(2)))
    settings = settings_of(data, inputs=(f"file://{data}", str(data / "a.jsonl")))
    found = list_inputs(settings, [str(data / "out")])
    assert names(found.sources) == ["a.jsonl"]
    assert {each.reason for each in found.sources.left_out} == {
        "named by corpus.heldout",
        "named by two inputs",
        "written by this command",
    }


def test_a_file_with_two_hard_links_is_read_once(data):
    (data / "below").mkdir()
    os.link(data / "a.jsonl", data / "below" / "b.jsonl")
    os.link(data / "a.jsonl", data.parent / "c.jsonl")
    found = list_inputs(settings_of(data, inputs=(str(data), str(data.parent / "c.jsonl"))))
    assert names(found.sources) == ["a.jsonl"]
    left_out = found.sources.left_out_by_reason()
    twice = left_out["link to what is read under another name"]
    assert names_of(twice) == ["b.jsonl", "c.jsonl"]


@pytest.mark.parametrize("setting", ["inputs", "heldout"])
@pytest.mark.parametrize("text", ["", " ", "a\\0b"])
def test_a_blank_input_is_not_the_working_directory(setting, text):
    with pytest.raises(ConfigError, match=rf"corpus\.{setting}: an entry is blank or holds a NUL"):
        load_config(None, [f'corpus.{setting}=["{text}"]'])


def test_what_the_command_writes_below_its_inputs_does_not_change_how_they_are_signed(
    data, monkeypatch
):
    corpus = settings_of(data, keep_rejected=str(data / "rejected"))
    before = list_inputs(corpus)
    size = sum(source.size for source in before.sources)
    monkeypatch.setattr("pipeline.corpus.text.sources.HASHED_BYTES", size)
    raw.write(data / "rejected" / "too_short" / "000000-0000.jsonl", raw.jsonl(write_texts(9)))
    assert [*list_inputs(corpus).sources] == [*before.sources]


def test_what_is_no_text_is_not_read(data, tmp_path):
    vocab = raw.write(data / "vocab.txt", "的\n".encode())
    words = raw.write(data / "words.txt", "新词\n".encode())
    raw.write(data / "rejected" / "too_short" / "000000-0000.jsonl", b"{}\n")
    raw.write(data / "out" / "manifest.json", b"{}\n")
    raw.write(data / "out" / "shard-000000-0000.arrow", b"of unknown kind")
    raw.write(data / "outside.txt", "字".encode())
    corpus = settings_of(
        data, vocab=str(vocab), user_dictionary=str(words), keep_rejected=str(data / "rejected")
    )
    found = list_inputs(corpus, [str(data / "out")])
    assert names(found.sources) == ["a.jsonl", "outside.txt"]
    assert {why: names_of(paths) for why, paths in found.sources.left_out_by_reason().items()} == {
        "named by corpus.heldout": ["heldout.jsonl"],
        "named by corpus.vocab": ["vocab.txt"],
        "named by corpus.user_dictionary": ["words.txt"],
        "written by this command": ["out", "rejected"],
    }


def test_a_run_folder_is_not_read_unless_an_input_lies_in_it(data):
    run = data / "runs" / "r"
    raw.write(run / "summary.json", b"{}\n")
    raw.write(run / "export" / "vocab.txt", b"x\n")
    raw.write(run / "sample" / "train.jsonl", raw.jsonl(write_texts(3)))
    raw.write(run / "shards" / "manifest.json", b"{}\n")

    def found(*inputs, **changes):
        corpus = settings_of(data, inputs=tuple(map(str, inputs)), heldout=(), **changes)
        return list_inputs(corpus, [str(run / "shards")], str(run)).sources

    assert names(found(data)) == ["a.jsonl", "heldout.jsonl"]
    assert found(data).left_out_by_reason()["in the folder of this run"] == [str(run)]
    for inside in (run / "sample", run / "sample" / "train.jsonl", run / "sample" / "*.jsonl"):
        assert names(found(data, inside)) == ["a.jsonl", "heldout.jsonl", "train.jsonl"]
    for ours in (run, run / "shards", run / "*.json"):
        with pytest.raises(CorpusError, match=r"corpus\.inputs: no file is left to read\. These "):
            found(ours)


def test_a_file_that_two_inputs_name_is_read_once(data):
    inputs = (str(data / "a.jsonl"), str(data / "a.jsonl"), str(link(data / "a.jsonl")), str(data))
    found = list_inputs(settings_of(data, inputs=inputs, heldout=()))
    assert names(found.sources) == ["a.jsonl", "heldout.jsonl"]
    twice = found.sources.left_out_by_reason()["named by two inputs"]
    assert names_of(twice) == ["a.jsonl", "link.jsonl"]


def test_a_file_that_lies_there_plain_and_compressed_is_read_once(tmp_path):
    for name in ("a.jsonl.zst", "a.jsonl", "b.txt.gz", "b.txt.xz", "x/a.jsonl.gz", "wiki_00.bz2"):
        raw.write(tmp_path / name, raw.jsonl(["一段文字"]))
    raw.write(tmp_path / "wiki_00", b"")
    found = list_inputs(CorpusSettings(inputs=(str(tmp_path),))).sources
    assert names(found) == ["a.jsonl", "b.txt.gz", "wiki_00.bz2", "a.jsonl.gz"]
    assert {reason: names_of(paths) for reason, paths in found.left_out_by_reason().items()} == {
        "empty": ["wiki_00"],
        "of the same name as a file that is read, but for the compression": [
            "a.jsonl.zst",
            "b.txt.xz",
        ],
    }


def test_what_a_step_of_hugging_faces_datasets_left_beside_the_data_is_not_read(tmp_path):
    """`map` writes all rows of a saved data set once more, into its folder."""
    table = pa.table({"text": ["甲乙丙"]})
    caches = ["cache-ed205e500a7dc44c.arrow", "cache-ed205e500a7dc44c_00000_of_00002.arrow"]
    for name in ["data-00000-of-00001.arrow", "cache-mine.arrow", *caches]:
        with pa.ipc.new_stream(tmp_path / name, table.schema) as file:
            file.write_table(table)
    for text in (tmp_path, tmp_path / "*.arrow"):
        sources = list_inputs(CorpusSettings(inputs=(str(text),))).sources
        assert names(sources) == ["cache-mine.arrow", "data-00000-of-00001.arrow"]
        assert sources.left_out_by_reason()[CACHE] == [f"{tmp_path}/{name}" for name in caches]
    alone = CorpusSettings(inputs=(f"{tmp_path}/{caches[0]}",))
    assert names(list_inputs(alone).sources) == caches[:1]


@pytest.mark.parametrize("heldout", [(), ("no.jsonl",), ("*.none",), ("a.docx",)])
def test_a_mistake_in_the_held_out_inputs_names_their_setting(data, heldout):
    raw.write(data / "a.docx", b"PK")
    heldout = tuple(str(data / name) for name in heldout) or (str(data / "mine.txt"),)
    corpus = settings_of(data, heldout=heldout, vocab=str(raw.write(data / "mine.txt", b"x")))
    with pytest.raises(CorpusError, match=r"^corpus\.heldout: "):
        list_inputs(corpus)


def names_of(paths):
    return [path.rpartition("/")[2] for path in paths]


def test_inputs_that_are_all_held_out_are_an_error(data):
    with pytest.raises(CorpusError, match=r"no file is left .* 2 named by corpus\.heldout: "):
        list_inputs(settings_of(data, heldout=(str(data),)))


def test_held_out_documents_in_the_training_text_are_left_out_and_counted(data, vocab, tmp_path):
    lines = Lines()
    corpus = settings_of(data, keep_rejected=str(tmp_path / "rejected"))
    manifest = run(corpus, tmp_path / "out", vocab, lines)
    assert manifest.counts["documents"] == 8
    assert manifest.drops == {"heldout_document": 2}
    assert list(manifest.left_out) == ["named by corpus.heldout"]
    assert any("2 document(s) also stand in corpus.heldout" in line for line in lines)
    assert any("heldout.jsonl" in line for line in lines)
    (kept,) = (tmp_path / "rejected" / "heldout_document").iterdir()
    texts = write_texts(10)
    assert [json.loads(line)["text"] for line in kept.open()] == [texts[3], texts[7]]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "manifest.json",
        *hashes(tmp_path / "out"),
    }
    # Cleaning decides what is the same.
    changed = data / "heldout.jsonl"
    changed.write_bytes(raw.jsonl([texts[3].replace("\n", " \r\n\n"), texts[5] + "了"]))
    assert run(corpus, tmp_path / "out", vocab).drops == {"heldout_document": 1}


def test_case_white_space_and_normal_form_hide_no_held_out_document(data, vocab, tmp_path):
    texts = [f"{text}《Café {text[:2]}》" for text in write_texts(10)]
    raw.write(data / "a.jsonl", raw.jsonl(texts))
    changed = [
        texts[0].upper(),
        unicodedata.normalize("NFD", texts[1]),
        texts[2].replace("。", "。 "),
    ]
    raw.write(data / "heldout.jsonl", raw.jsonl([*changed, texts[3] + "了"]))
    manifest = run(settings_of(data), tmp_path / "out", vocab)
    assert manifest.drops == {"heldout_document": 3}


@pytest.mark.parametrize("memory", [1000.0, 0.01])
def test_near_duplicates_of_held_out_documents_are_left_out(data, vocab, tmp_path, memory):
    texts = [f"{number}：{text}" for number, text in enumerate(write_texts(10))]
    raw.write(data / "a.jsonl", raw.jsonl([*texts, texts[0] + "了", texts[6] + "了"]))
    # The first two are near each other, and stay held out both.
    heldout = [texts[3] + "吗", texts[3] + "呢", texts[0], texts[5] + "吗"]
    raw.write(data / "heldout.jsonl", raw.jsonl(heldout))
    lines = Lines()
    near = {"near_documents": True, "memory_megabytes": memory}
    manifest = run(settings_of(data, dedup=near), tmp_path / "out", vocab, lines)
    assert manifest.drops == {
        "heldout_document": 1,
        "near_duplicate_document": 1,
        "near_heldout_document": 3,
    }
    assert manifest.counts["documents"] == 7
    assert manifest.counts["near_duplicate_clusters"] == 1
    assert any("3 document(s) are near duplicates of held-out ones" in line for line in lines)
    report = [json.loads(line) for line in (tmp_path / "out" / "duplicates.jsonl").open()]
    kept = [Path(line["kept"].partition(":")[0]).name for line in report]
    assert [line["reason"] for line in report] == [
        "near_heldout_document",
        "near_heldout_document",
        "near_heldout_document",
        "near_duplicate_document",
    ]
    assert kept == ["heldout.jsonl"] * 3 + ["a.jsonl"]


def test_the_setting_keeps_held_out_documents(data, vocab, tmp_path):
    corpus = settings_of(data, dedup={"heldout_documents": False})
    manifest = run(corpus, tmp_path / "out", vocab)
    assert (manifest.counts["documents"], manifest.drops) == (10, {})


def test_held_out_text_that_changes_makes_a_new_corpus_and_duplicates_go_with_it(
    data, vocab, tmp_path
):
    corpus = settings_of(data, dedup={"exact_documents": True, "exact_paragraphs": True})
    twice = raw.jsonl(write_texts(10)) * 2
    (data / "a.jsonl").write_bytes(twice)
    first = run(corpus, tmp_path / "out", vocab)
    assert first.drops == {"duplicate_document": 8, "heldout_document": 4}
    (data / "heldout.jsonl").write_bytes(raw.jsonl(write_texts(5, seed=9)))
    second = run(corpus, tmp_path / "out", vocab)
    assert second.fingerprint != first.fingerprint
    assert "heldout_document" not in second.drops


def test_an_output_folder_under_the_inputs_is_up_to_date_when_the_command_runs_again(data, vocab):
    corpus = settings_of(data)
    first = run(corpus, data / "out", vocab)
    calls = []

    def work(job, units, workers):
        calls.append(units)
        return IN_PROCESS.run(job, units, workers)

    again = run(corpus, data / "out", vocab, executor=Executor(work, IN_PROCESS.run_tasks))
    assert again == first
    assert not calls


def test_the_origins_of_samples_are_found_though_files_are_left_out(data, vocab, tmp_path):
    raw.write(data / "0.jsonl", raw.jsonl(write_texts(3, seed=5)))
    corpus = settings_of(data, heldout=(str(data / "0.jsonl"),), shard_megabytes=0.001)
    run(corpus, tmp_path / "out", vocab)
    reader = ShardFolder(tmp_path / "out")
    numbers = np.arange(len(reader))
    documents = reader.rows(numbers).documents
    found = origins_of(reader, numbers, documents)
    assert set(found) == set(documents.tolist())


def test_folders_of_other_runs_and_corpora_are_left_out_unless_they_are_named(data, vocab):
    corpus = CorpusSettings(inputs=(str(data / "a.jsonl"),), **SMALL)
    run(corpus, data / "other", vocab)
    raw.write(data / "other" / "more.jsonl", raw.jsonl(write_texts(3)))
    raw.write(data / "runs" / "one" / "vocab.origin.json", b"{}")
    raw.write(data / "runs" / "one" / "metrics.jsonl", b"{}")
    raw.write(data / "runs" / "two" / "checkpoints" / "checkpoint_000010" / "COMPLETE", b"1")
    raw.write(data / "runs" / "two" / "sample" / "train.jsonl", b"{}")
    listed = list_inputs(CorpusSettings(inputs=(str(data),))).sources
    assert names(listed) == ["a.jsonl", "heldout.jsonl"]
    assert {reason: set(paths) for reason, paths in listed.left_out_by_reason().items()} == {
        "in a corpus that jobs.prepare made": {str(data / "other")},
        "in the folder of another run": {str(data / "runs" / name) for name in ("one", "two")},
    }
    named = list_inputs(CorpusSettings(inputs=(str(data / "runs" / "two" / "sample"),))).sources
    assert names(named) == ["train.jsonl"]
