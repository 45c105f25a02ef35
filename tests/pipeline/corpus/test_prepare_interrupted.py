"""Preparations that are stopped, damaged or refused by the disk, and go on."""

import errno
import os

import pytest

from pipeline.corpus.run.passes import Executor
from pipeline.corpus.shards import format as shards
from pipeline.errors import CorpusError
from tests.pipeline.corpus import raw
from tests.pipeline.corpus.preparing import IN_PROCESS, counting, hashes, run
from tests.pipeline.corpus.raw import write_texts


def test_a_damaged_folder_is_made_again(source, vocab, tmp_path):
    out = tmp_path / "out"
    before = hashes(out) if run(source, out, vocab) else {}
    (out / min(before)).write_bytes(b"cut")
    run(source, out, vocab)
    assert hashes(out) == before


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("stop_after", [1, 4, 6])
def test_a_rerun_redoes_only_what_was_unfinished(source, vocab, tmp_path, suffix, stop_after):
    source = raw.write(tmp_path / f"b.jsonl{suffix}", source.read_bytes())
    run(source, tmp_path / "whole", vocab)
    out = tmp_path / "out"
    executor, done = counting(stop_after)
    with pytest.raises(KeyboardInterrupt):
        run(source, out, vocab, executor)
    assert not (out / "manifest.json").exists()
    (out / ".shard-000009-0000.arrow.17.tmp").write_bytes(b"half a shard")
    executor, redone = counting()
    run(source, out, vocab, executor)
    assert hashes(out) == hashes(tmp_path / "whole")
    assert not list(out.glob(".*"))
    keys = [[(r.unit, r.chunk) for r in results if r.chunk >= 0] for results in (done, redone)]
    assert not set(keys[0]) & set(keys[1])
    assert len(keys[0]) + len(keys[1]) == len(hashes(out))


@pytest.mark.long
def test_a_start_that_is_stopped_after_any_result_goes_on(vocab, tmp_path):
    texts = [f"分享到：\n{text}" for text in write_texts(24)]
    source = raw.write(tmp_path / "a.jsonl", raw.jsonl([*texts, *texts[:4], "短"]))
    heldout = raw.write(tmp_path / "h.jsonl", raw.jsonl([*texts[2:4], *write_texts(40, seed=9)]))
    settings = {
        "heldout": (str(heldout),),
        "dedup": {"exact_documents": True, "exact_paragraphs": True, "boilerplate_documents": 20},
        "shard_megabytes": 0.001,
    }
    executor, done = counting()
    whole = run(source, tmp_path / "whole", vocab, executor, **settings)
    reasons = {"heldout_document", "duplicate_document", "too_short", "boilerplate_line"}
    assert reasons == set(whole.drops)
    assert whole.boilerplate == (("分享到：", 22),)
    for number in range(1, len(done) + 1):
        out = tmp_path / str(number)
        with pytest.raises(KeyboardInterrupt, match=rf"^{out}: \d+ finished chunks are kept"):
            run(source, out, vocab, counting(number)[0], **settings)
        assert run(source, out, vocab, **settings) == whole, number
        assert hashes(out) == hashes(tmp_path / "whole")
        assert not (out / "_work").exists()
    # However often it is stopped, it ends.
    for _ in done:
        with pytest.raises(KeyboardInterrupt):
            run(source, tmp_path / "often", vocab, counting(1)[0], **settings)
    assert run(source, tmp_path / "often", vocab, **settings) == whole


def test_the_report_of_duplicates_is_that_of_the_corpus_that_was_finished(vocab, tmp_path):
    texts = write_texts(20)
    source = raw.write(tmp_path / "a.jsonl", raw.jsonl([*texts, *texts[:4], texts[5] + "续完"]))
    exact = {"dedup": {"exact_documents": True}}
    near = {"dedup": {"near_documents": True}}
    out, report = tmp_path / "out", tmp_path / "out" / "duplicates.jsonl"
    run(source, tmp_path / "whole", vocab, **exact)
    expected = (tmp_path / "whole" / "duplicates.jsonl").read_text("utf-8")

    def stops_when_duplicates_are_found(job, units, workers):
        if job.marks:
            raise KeyboardInterrupt
        yield from IN_PROCESS.run(job, units, workers)

    executor = Executor(stops_when_duplicates_are_found, IN_PROCESS.run_tasks)
    for settings in (exact, near):
        with pytest.raises(KeyboardInterrupt):
            run(source, out, vocab, executor, **settings)
    run(source, out, vocab, **exact)
    assert report.read_text("utf-8") == expected
    assert expected.count("\n") == 4
    run(source, out, vocab)
    assert not report.exists()


def test_a_full_disk_is_named_and_finished_shards_are_kept(source, vocab, tmp_path, monkeypatch):
    write = shards.write_whole

    def full(path, data):
        if path.endswith("shard-000003-0000.arrow"):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    monkeypatch.setattr(shards, "write_whole", full)
    with pytest.raises(CorpusError, match=r"out: No space left on device; remove the cause"):
        run(source, tmp_path / "out", vocab)
    monkeypatch.undo()
    executor, done = counting()
    run(source, tmp_path / "out", vocab, executor)
    assert min(result.unit for result in done) == 3


def test_ctrl_c_says_what_is_kept(source, vocab, tmp_path):
    executor, done = counting(stop_after=6)
    with pytest.raises(KeyboardInterrupt, match=r"out: \d+ finished chunks are kept") as raised:
        run(source, tmp_path / "out", vocab, executor)
    chunks = sum(result.chunk >= 0 for result in done)
    assert f"out: {chunks} finished chunks" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_error_of_any_kind_in_a_worker_is_one_line_with_the_input(
    source, vocab, tmp_path, monkeypatch
):
    def fails(*_):
        raise RuntimeError("it broke")

    monkeypatch.setattr("pipeline.corpus.run.work.make_samples", fails)
    with pytest.raises(CorpusError, match=r"a\.jsonl:0: RuntimeError: it broke") as raised:
        run(source, tmp_path / "out", vocab)
    assert "\n" not in str(raised.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_must_not_be_written_is_named(source, vocab, tmp_path):
    (tmp_path / "out").mkdir(mode=0o500)
    with pytest.raises(CorpusError, match=r"out.*: Permission denied"):
        run(source, tmp_path / "out", vocab)


def test_a_driver_s_full_disk_is_one_line(source, vocab, tmp_path, monkeypatch):
    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pipeline.corpus.run.output_folder.write_whole", full)
    with pytest.raises(CorpusError, match="out: No space left on device; remove the cause"):
        run(source, tmp_path / "out", vocab)


def test_a_file_that_vanishes_stops_the_preparation_until_it_is_back(source, vocab, tmp_path):
    second = raw.write(source.parent / "b.jsonl", raw.jsonl(write_texts(100, seed=2)))
    out = tmp_path / "out"
    data = second.read_bytes()

    def work(job, units, workers):
        for result in IN_PROCESS.run(job, units, workers):
            second.unlink(missing_ok=True)
            yield result

    with pytest.raises(CorpusError, match=r"b\.jsonl: the file vanished"):
        run(source.parent, out, vocab, Executor(work, IN_PROCESS.run_tasks))
    assert not (out / "manifest.json").exists()
    raw.write(second, data)
    manifest = run(source.parent, out, vocab)
    assert manifest.counts["documents"] == 400
