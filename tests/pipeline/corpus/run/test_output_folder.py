"""An output folder is ours or empty; only files that its manifest or claim names are deleted."""

import json
import os

import pytest

from pipeline.corpus import planning
from pipeline.corpus.run import output_folder
from pipeline.corpus.run.output_folder import Claim
from pipeline.corpus.run.passes import Executor
from pipeline.errors import ConfigError, CorpusError
from pipeline.files import holders, store_lock
from pipeline.files.storage import filesystem
from pipeline.settings.corpus import CorpusSettings
from tests.pipeline.corpus import raw
from tests.pipeline.corpus.preparing import IN_PROCESS, counting, hashes, run
from tests.pipeline.corpus.raw import write_texts


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    "files",
    [
        {"data-00000-of-00001.arrow": "mine"},
        {"notes.tmp": "mine"},
        {".hidden": "mine"},
        {"_work/draft.txt": "mine"},
        {"_work/000000-0000.json": "{}"},
        {"_work/ledger": '{"made_by": "somebody else"}'},
        {"manifest.json": '{"mine": 1}'},
        {"manifest.json": "[]"},
        {"manifest.json": '{"schema_version": 1, "shards": 3, "vocab_sha256": 1, "fingerprint": 1'},
        {"duplicates.jsonl": "mine"},
        {"shard-000000-0000.arrow": "mine"},
        {"deep/er/text.txt": "mine"},
    ],
    ids=lambda files: next(iter(files)),
)
def test_a_folder_with_files_of_others_is_refused_and_untouched(source, vocab, tmp_path, files):
    out = tmp_path / "out"
    for name, text in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text)
    before = content(out)
    settings = CorpusSettings(inputs=(str(source),))
    for refused in (lambda: planning.check(settings, out, vocab), lambda: run(source, out, vocab)):
        with pytest.raises(CorpusError, match="do not belong to this corpus: ") as raised:
            refused()
        assert next(iter(files)).partition("/")[0] in str(raised.value)
        assert content(out) == before


def test_empty_folders_do_no_harm(source, vocab, tmp_path):
    (tmp_path / "out" / "_work" / "old").mkdir(parents=True)
    run(source, tmp_path / "out", vocab)
    assert "_work" not in {path.name for path in (tmp_path / "out").iterdir()}


def test_a_file_in_place_of_the_folder_is_refused(source, vocab, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(CorpusError, match="is a file"):
        run(source, tmp_path / "out", vocab)


@pytest.mark.parametrize("setting", ["output", "keep_rejected"])
@pytest.mark.parametrize("place", ["file/below", "dead", "locked", "locked/below"])
def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_read(
    vocab, tmp_path, monkeypatch, place, setting
):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dead").symlink_to("nowhere")
    (tmp_path / "locked").mkdir(mode=0o500)
    if os.geteuid() == 0:  # root may write anywhere
        monkeypatch.setattr(os, "access", lambda path, *rest, **more: "locked" not in path)
    folders = {"output": tmp_path / "out", setting: tmp_path / place}
    settings = CorpusSettings(inputs=("none",), keep_rejected=str(folders.get("keep_rejected", "")))
    with pytest.raises(CorpusError, match=f"{place}: can't be written: .*{place.split('/')[0]}"):
        planning.check(settings, folders["output"], vocab)


@pytest.mark.parametrize("name", ["note.txt", "shard-99999.arrow", "_work/draft.txt"])
def test_files_that_were_put_into_a_corpus_stay(source, vocab, tmp_path, name):
    out = tmp_path / "out"
    run(source, out, vocab)
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("mine")
    before = content(out)
    run(source, out, vocab)  # it is up to date
    with pytest.raises(CorpusError, match="do not belong"):
        run(source, out, vocab, sequence_length=32)
    assert content(out) == before


@pytest.mark.parametrize("name", ["o[u]t*?", "第 一 批[新]"])
def test_brackets_in_the_folder_s_name_hide_no_stale_file(source, vocab, tmp_path, name):
    out = tmp_path / name
    run(source, out, vocab)
    executor, done = counting(stop_after=3)
    with pytest.raises(KeyboardInterrupt):
        run(source, out, vocab, executor, shard_megabytes=0.02)
    executor, redone = counting()
    run(source, out, vocab, executor, shard_megabytes=0.02)
    assert {r.unit for r in redone}.isdisjoint({r.unit for r in done if r.chunk < 0})
    run(source, tmp_path / "expected", vocab, shard_megabytes=0.02)
    assert hashes(out) == hashes(tmp_path / "expected")
    assert {path.name for path in out.iterdir()} == {"manifest.json", *hashes(out)}


def test_a_shard_without_a_record_is_ours_by_the_claim(source, vocab, tmp_path, monkeypatch):
    out = tmp_path / "out"

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.corpus.run.work.record", killed)
    with pytest.raises(KeyboardInterrupt):
        run(source, out, vocab)
    monkeypatch.undo()
    assert hashes(out)
    run(source, out, vocab, shard_megabytes=1.0)
    assert list(hashes(out)) == ["shard-000000-0000.arrow"]


def test_dropped_text_of_an_earlier_corpus_does_not_mix_with_the_new_one(vocab, tmp_path):
    rejected = tmp_path / "rejected"
    source = raw.write(tmp_path / "a.jsonl", raw.jsonl([*write_texts(100), "短"]))
    settings = {"keep_rejected": str(rejected), "shard_megabytes": 0.002}
    run(source, tmp_path / "out", vocab, **settings)
    (first,) = rejected.rglob("*.jsonl")
    run(source, tmp_path / "out", vocab, **{**settings, "shard_megabytes": 1.0})
    assert [path.name for path in rejected.rglob("*.jsonl")] == ["000000-0000.jsonl"]
    assert not first.exists()
    # The folder belongs to that corpus; another one must not write there.
    with pytest.raises(CorpusError, match=r"corpus\.keep_rejected: .*too_short/000000-0000"):
        run(source, tmp_path / "other", vocab, **settings)
    (rejected / "mine.txt").write_text("mine")
    with pytest.raises(CorpusError, match=r"corpus\.keep_rejected: .*mine\.txt"):
        run(source, tmp_path / "out", vocab, **settings)
    # That is said before anything is read.
    corpus = CorpusSettings(inputs=("a",), keep_rejected=str(rejected))
    with pytest.raises(CorpusError, match=r"corpus\.keep_rejected: .*mine\.txt"):
        planning.check(corpus, tmp_path / "other", vocab)


def test_dropped_text_that_a_killed_process_left_half_written_is_deleted(vocab, tmp_path):
    rejected = tmp_path / "rejected"
    source = raw.write(tmp_path / "a.jsonl", raw.jsonl([*write_texts(40), "短"]))
    executor, _ = counting(stop_after=1)
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out", vocab, executor, keep_rejected=str(rejected))
    half = raw.write(rejected / "too_short" / ".000000-0000.jsonl.17.tmp", b"half")
    run(source, tmp_path / "out", vocab, keep_rejected=str(rejected))
    assert list(rejected.rglob("*.jsonl"))
    assert not half.exists()


@pytest.mark.parametrize("rejected", ["out", "out/rejected", "."])
def test_shards_and_dropped_text_have_folders_apart(vocab, tmp_path, rejected):
    corpus = CorpusSettings(inputs=("a",), keep_rejected=str(tmp_path / rejected))
    with pytest.raises(ConfigError, match=r"inside the folder of the shards, .* or holds it"):
        planning.check(corpus, tmp_path / "out", vocab)


def test_an_older_corpus_is_ours(source, vocab, tmp_path):
    out = tmp_path / "out"
    run(source, out, vocab)
    path = out / "manifest.json"
    values = json.loads(path.read_text("utf-8"))
    del values["units"]
    path.write_text(json.dumps(values | {"schema_version": 1}), "utf-8")
    run(source, out, vocab, shard_megabytes=1.0)
    assert list(hashes(out)) == ["shard-000000-0000.arrow"]


def test_a_file_of_others_in_the_work_folder_survives_the_end(tmp_path):
    output_folder.begin(str(tmp_path), Claim(fingerprint="f", units=1))
    (tmp_path / "_work" / "000000-end.json").write_text("{}")
    (tmp_path / "_work" / "mine.txt").write_text("mine")
    output_folder.remove_work(str(tmp_path), "f")
    assert content(tmp_path) == {"_work/mine.txt": b"mine"}


@pytest.mark.parametrize("name", ["_work/.000002-0000.json.17.tmp", "_work/000002-end.json"])
def test_work_that_a_killed_process_left_is_deleted_by_the_next_start(
    source, vocab, tmp_path, monkeypatch, name
):
    def killed(*_):
        (tmp_path / "out" / name).write_text("half")
        raise KeyboardInterrupt

    out = tmp_path / "out"
    monkeypatch.setattr(output_folder, "remove_work", killed)
    with pytest.raises(KeyboardInterrupt):
        run(source, out, vocab)
    monkeypatch.undo()
    executor, redone = counting()
    run(source, out, vocab, executor)  # it is up to date
    assert not redone
    assert {path.name for path in out.iterdir()} == {"manifest.json", *hashes(out)}


def test_unfinished_work_of_another_corpus_stays_beside_one_that_is_up_to_date(
    source, vocab, tmp_path
):
    out = tmp_path / "out"
    run(source, out, vocab)
    output_folder.begin(str(out), Claim(fingerprint="other", units=1))
    run(source, out, vocab)
    assert (out / "_work" / "ledger").exists()


def test_units_without_a_result_are_refused_and_made_by_the_same_command(source, vocab, tmp_path):
    out = tmp_path / "out"

    def stops(job, units, workers):
        results = IN_PROCESS.run(job, units, workers)
        for _ in range(5):
            yield next(results)

    with pytest.raises(CorpusError, match=r"\d+ of \d+ work units gave no complete result"):
        run(source, out, vocab, Executor(stops, IN_PROCESS.run_tasks))
    assert not (out / "manifest.json").exists()
    run(source, out, vocab)
    run(source, tmp_path / "whole", vocab)
    assert hashes(out) == hashes(tmp_path / "whole")


def test_an_end_without_its_chunks_is_no_result(source, vocab, tmp_path):
    def loses(job, units, workers):
        for result in IN_PROCESS.run(job, units, workers):
            if (result.unit, result.chunk) != (1, 0):
                yield result

    with pytest.raises(CorpusError, match=r"1 of \d+ work units gave no complete result"):
        run(source, tmp_path / "out", vocab, Executor(loses, IN_PROCESS.run_tasks))


def test_a_shard_that_vanishes_before_the_end_is_noticed(source, vocab, tmp_path):
    out = tmp_path / "out"

    def loses(job, units, workers):
        yield from IN_PROCESS.run(job, units, workers)
        (out / "shard-000002-0000.arrow").unlink()

    with pytest.raises(CorpusError, match=r"1 of \d+ shards vanished .*shard-000002-0000"):
        run(source, out, vocab, Executor(loses, IN_PROCESS.run_tasks))
    run(source, out, vocab)


def test_a_folder_in_an_object_store_has_one_command_at_a_time(tmp_path, monkeypatch):
    """Two wrote into one folder, and the first to end deleted the records of the other."""
    monkeypatch.setattr(holders, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(store_lock, "SETTLE_SECONDS", 0.01)
    url = f"memory://{tmp_path.name}/shards"
    with output_folder.held(url, print):
        with (
            pytest.raises(ConfigError, match=r"works on this corpus: .*choose another corpus\.out"),
            output_folder.held(url, print),
        ):
            pass
        output_folder.check_output(url, "")
    assert not filesystem(url)[0].find(f"{tmp_path.name}/shards")
    with output_folder.held(url, print):
        pass
