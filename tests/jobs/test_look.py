"""`jobs.preview`, `jobs.verify` and `jobs.plan`, called as on the command line."""

import re

import pytest

from jobs import plan, preview, verify
from jobs.command import main
from jobs.output.samples import LEGEND
from pipeline.corpus.samples.vocabulary import vocabulary_sha256
from pipeline.sizing import plan_table
from tests.pipeline.corpus.made import make_corpus
from tests.pipeline.corpus.shards.test_report import TOKENS


@pytest.fixture
def run(tmp_path):
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join(TOKENS) + "\n", encoding="utf-8")
    make_corpus(tmp_path / "run" / "shards", vocab_sha256=vocabulary_sha256(vocab))
    return [f"run.storage={tmp_path}", "run.name=run", f"corpus.vocab={vocab}"]


def test_preview_shows_samples_and_writes_the_report(run, tmp_path, capsys):
    assert main(preview.VERB, [*run, "preview.samples=3"]) == 0
    shown = capsys.readouterr().out
    assert shown.count(" · document ") == 3
    assert "  A " in shown
    masked = sum(map(int, re.findall(r"(\d+) masked", shown)))
    samples = shown.partition("Corpus\n")[0].removeprefix(LEGEND.plain)
    assert samples.count("[") == masked  # without colours too
    assert (tmp_path / "run" / "report" / "report.html").exists()


def test_preview_draws_masks_if_the_shards_have_none(run, tmp_path, capsys):
    digest = vocabulary_sha256(tmp_path / "vocab.txt")
    make_corpus(tmp_path / "bare", vocab_sha256=digest, static=False)
    for shards in ("bare", f"run/shards, {tmp_path}/bare"):
        assert main(preview.VERB, [*run, f"train.shards=[{tmp_path}/{shards}]"]) == 0
        assert " 0 masked" not in capsys.readouterr().out


def test_preview_shows_the_masks_of_training_and_not_others_in_the_shards(run, capsys):
    masking = "{mode: dynamic, probability: 0.0001}"
    assert main(preview.VERB, [*run, "preview.samples=3", f"corpus.masking={masking}"]) == 0
    # One token of a sample, to within a word; the shards hold 15 %.
    assert max(map(int, re.findall(r"(\d+) masked", capsys.readouterr().out))) <= 3


def test_preview_refuses_another_vocabulary(run, tmp_path, capsys):
    (tmp_path / "vocab.txt").write_text("\n".join(TOKENS[:-1]) + "\n", encoding="utf-8")
    assert main(preview.VERB, run) == 2
    assert "not the vocabulary" in capsys.readouterr().err


def test_verify_accepts_a_sound_corpus_and_names_what_is_wrong(run, tmp_path, capsys):
    assert main(verify.VERB, run) == 0
    shard = next((tmp_path / "run" / "shards").glob("*.arrow"))
    shard.write_bytes(shard.read_bytes()[::-1])
    assert main(verify.VERB, run) == 2
    assert f"{shard.name}: its SHA-256" in capsys.readouterr().err


def test_dry_runs_touch_nothing(run, tmp_path):
    for verb in (preview.VERB, verify.VERB):
        assert main(verb, [*run, "--dry-run"]) == 0
    assert not (tmp_path / "run" / "report").exists()


def test_a_plan_is_shown_where_it_cannot_be_kept(tmp_path, capsys, monkeypatch):
    """As of a run on a disk that only the cluster has."""
    monkeypatch.setattr(plan_table, "write_json", lambda *_: (tmp_path / "no" / "a").write_text(""))
    given = ["plan.device=H100 SXM", "scaling.workers=8", f"run.storage={tmp_path}"]
    assert main(plan.VERB, given) == 2
    shown = capsys.readouterr()
    assert "tokens a second" in shown.out
    assert shown.err.startswith("error: [Errno 2]")
