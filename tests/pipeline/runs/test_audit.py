"""A run's records show that every sample of an epoch was consumed once, or what is wrong."""

import json
import shutil

import pytest

from jobs import audit as verb
from jobs.command import main
from pipeline.errors import CheckpointError
from pipeline.paths import RunPaths
from pipeline.runs.audit import audit
from pipeline.settings.reading.config_file import with_changes
from pipeline.training.checkpoints import files
from pipeline.training.measure import step_log
from tests.corpora import write_corpus
from tests.small_run import fit, settings


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """A run of 12 steps that was begun again from step 6, after a crash had cut a line."""
    config = settings(tmp_path_factory.mktemp("runs"), "resumed", "run.seed=3", "train.steps=12")
    fit(config)
    files.remove(RunPaths.of(config).checkpoints / "checkpoint_000012")
    path = RunPaths.of(config).run / step_log.FILE
    path.write_text(path.read_text("utf-8")[:-9], "utf-8")
    fit(config)
    return config


def test_every_sample_of_a_resumed_run_is_used_once(resumed, capsys):
    found = audit(resumed)
    assert found.problems == []
    assert (found.steps, found.attempts, found.repeated, found.workers) == (12, 2, 6, [1])
    assert (found.unapplied, found.left_out) == ([], 0)
    assert sum(int(line.split()[2]) for line in found.epochs) == 12 * 16
    assert main(verb.VERB, [str(RunPaths.of(resumed).run)]) == 0
    shown = capsys.readouterr().out
    assert "steps done again" in shown
    assert "records read: 0, for 12 steps" in shown  # a run of 1,000,000 steps takes minutes


def test_a_thousand_equal_epochs_are_three_lines():
    given = [f"epoch {number}: 92 of 92 samples exactly once" for number in range(1000)]
    last = "epoch 1000: 5 of 92 samples exactly once"
    shown = list(verb._without_equals([*given, last]))
    assert shown == [given[0], "… and 998 epochs like it", given[-1], last]
    assert list(verb._without_equals(given[:2])) == given[:2]


def test_samples_of_damaged_shards_are_not_among_those_that_were_used(tmp_path, capsys):
    shards = f"{tmp_path}/damaged/shards", f"{tmp_path}/more"
    given = "faults.damaged_shard=skip", f"train.shards=[{shards[0]}@0.5, {shards[1]}@0.5]"
    config = settings(tmp_path, "damaged", *given)
    folder = write_corpus(tmp_path / "more", RunPaths.of(config).vocab, seed=2)
    for shard in folder.glob("*.arrow"):
        shard.write_bytes(b"nothing")
    fit(config)
    found = audit(config)
    assert found.problems == []
    assert found.damaged == 12 * 16 / 2
    assert main(verb.VERB, [str(RunPaths.of(config).run)]) == 0
    assert "of damaged shards │ 96" in capsys.readouterr().out


def test_a_branch_leaves_out_nothing_of_its_own(resumed, tmp_path):
    origin = RunPaths.of(resumed).run
    branch = ("train.init_state=branch", f"train.init_from={origin}", "optim.warmup=0")
    config = settings(tmp_path, "branch", "run.seed=3", "train.steps=6", *branch)
    fit(config)
    found = audit(config)
    assert (found.problems, found.left_out, found.steps) == ([], 0, 6)


def test_a_run_in_a_store_is_read_where_this_machine_works_on_it(resumed, tmp_path):
    """Its own settings may name a folder of another machine."""
    place = {"run.storage": "memory://runs", "run.scratch": str(tmp_path)}
    config = with_changes(resumed, place, "")
    shutil.copytree(RunPaths.of(resumed).run, RunPaths.of(config).run)
    assert audit(config).problems == []


@pytest.fixture
def record(resumed):
    """The record of the run's steps, which a test may change."""
    path = RunPaths.of(resumed).run / step_log.FILE
    whole = path.read_bytes()
    yield path
    path.write_bytes(whole)


def change(**values):
    def changed(line):
        return json.dumps({**json.loads(line), **values})

    return changed


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda line: "", "step 3 of start 1 of the workers: no record of what it consumed"),
        (lambda line: line[:20], "steps.jsonl: line 4 is damaged"),
        (change(sum=1), "step 3: the workers consumed 16 samples that are not the 16 of"),
        (change(samples=15), "step 3: the workers consumed 15 samples"),
        (change(batch=1), "step 3: took global batch 1 instead of 2"),
        (change(batch=1), "more than once"),
    ],
)
def test_what_is_wrong_with_the_records_is_named(resumed, record, edit, problem, capsys):
    lines = record.read_text("utf-8").splitlines()
    third = 3  # its line, after that of the command
    sums = json.loads(lines[third - 1])
    if edit.__name__ == "changed" and problem.endswith("more than once"):
        edit = change(batch=1, sum=sums["sum"])
    lines[third] = edit(lines[third])
    record.write_text("\n".join(lines) + "\n", "utf-8")
    assert any(problem in found for found in audit(resumed).problems)
    assert main(verb.VERB, [str(record.parent)]) == 2
    assert problem in capsys.readouterr().err


def test_a_run_without_records_is_refused(resumed, record):
    record.unlink()
    with pytest.raises(CheckpointError, match="no record of what was consumed"):
        audit(resumed)
