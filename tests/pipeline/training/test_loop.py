"""The loop without Ray, in one process and in several: real engine, real shards."""

import shutil

import pytest
import torch

from pipeline.errors import ConfigError, NezhaError, TrainingError
from pipeline.paths import RunPaths
from pipeline.settings.reading.config_file import with_changes
from pipeline.stages.before import preflight
from pipeline.training import loop
from pipeline.training.checkpoints import files
from pipeline.training.measure import history
from pipeline.training.start import opening
from tests.corpora import write_corpus
from tests.pipeline.training import spawn, worlds
from tests.small_run import fit, losses, settings, weights

DROPLESS = ("model.hidden_dropout_prob=0", "model.attention_probs_dropout_prob=0")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    config = settings(tmp_path_factory.mktemp("runs"), "whole")
    return config, fit(config)


def test_a_run_leaves_checkpoints_history_and_scores(finished):
    config, state = finished
    paths = RunPaths.of(config)
    assert state["step"] == 12
    assert state["samples_seen"] == 12 * 16
    assert sorted(path.name for path in paths.checkpoints.glob("checkpoint*")) == [
        "checkpoint_000006",
        "checkpoint_000012",
    ]
    records = history.read(paths.run)
    assert [record["step"] for record in records if "mlm_loss" in record] == [2, 4, 6, 8, 10, 12]
    assert [record["step"] for record in records if "heldout_mlm_loss" in record] == [6, 12]
    assert state["heldout"]["loss"] < losses(config)[2]
    assert records[-2]["tflops_per_worker"] > 0
    for record in records:
        times = [value for key, value in record.items() if key.startswith("time/")]
        assert sum(times) == pytest.approx(1.0 if times else 0.0)
        assert bool(times) == ("mlm_loss" in record and record["step"] in (6, 10))


def test_a_finished_run_is_not_given_other_settings(finished):
    """The command ended well, as if it had trained with them."""
    config, _ = finished
    for key, value in (("optim.lr", 0.02), ("train.steps", 8)):
        with pytest.raises(ConfigError, match=f"{key}: .* → {value}"):
            fit(with_changes(config, {key: value}, ""))
    assert fit(config)["step"] == 12


def test_a_run_killed_after_a_checkpoint_continues_bit_for_bit(finished, tmp_path):
    whole, _ = finished
    config = settings(tmp_path, "killed")
    fit(config)
    paths = RunPaths.of(config)
    files.remove(paths.checkpoints / "checkpoint_000012")
    fit(config)
    assert losses(config) == losses(whole)
    assert weights(config, 12) == weights(whole, 12)


def test_other_data_under_an_old_checkpoint_is_refused(finished, tmp_path):
    config = settings(tmp_path, "mixed")
    fit(config)
    paths = RunPaths.of(config)
    write_corpus(paths.shards, paths.vocab, seed=5)
    files.remove(paths.checkpoints / "checkpoint_000012")
    with pytest.raises(NezhaError, match="corpora: was"):
        fit(config)


@pytest.mark.slow
def test_the_curve_is_the_same_on_any_number_of_workers(tmp_path):
    """Also interrupted on two workers and resumed on one or four; three have unequal shares."""

    def run(name, workers):
        sizes = "train.micro_batch=4", "train.log_every=1"
        elastic = "scaling.min_workers=1", "scaling.max_workers=4"
        return settings(tmp_path, f"{name}-{workers}", *sizes, *elastic)

    whole = {workers: run("whole", workers) for workers in (1, 2, 3)}
    for workers, config in whole.items():
        worlds.fit(config, workers)
    start = run("interrupted", 2)
    worlds.fit(start, 2, interrupted=True)
    assert losses(start).keys() == set(range(1, 7))
    resumed = [run("resumed", workers) for workers in (1, 4)]
    for config, workers in zip(resumed, (1, 4), strict=True):
        shutil.copytree(RunPaths.of(start).run, RunPaths.of(config).run, dirs_exist_ok=True)
        worlds.fit(config, workers)
    reference = losses(whole[2])
    assert len(reference) == 12
    for config in (whole[1], whole[3], *resumed):
        assert worlds.distance(losses(config), reference) < 1e-5


def test_weights_that_are_not_finite_are_not_committed(tmp_path, monkeypatch):
    """A restart would load them again."""
    config = settings(tmp_path, "wild", "train.checkpoint_every=2", "faults.spike=stop")
    answers = iter([True, False])
    monkeypatch.setattr(loop.engine, "weights_are_finite", lambda _: next(answers))
    with pytest.raises(TrainingError, match=r"step 4: weights are not finite; lower optim\.lr"):
        fit(config)
    found = files.newest(RunPaths.of(config).checkpoints)
    assert found.name == "checkpoint_000002"


@pytest.mark.parametrize("state", ["weights", "full"])
def test_a_second_phase_continues_without_the_first(tmp_path, state):
    first = settings(tmp_path, "first", "train.steps=6")
    fit(first)
    origin = RunPaths.of(first).checkpoints / "checkpoint_000006"
    second = settings(tmp_path, "second", f"train.init_from={origin}", f"train.init_state={state}")
    assert fit(second)["step"] == 12
    whole = losses(second)
    files.remove(RunPaths.of(second).checkpoints / "checkpoint_000012")
    files.remove(origin)
    assert fit(second)["step"] == 12
    assert losses(second) == whole


def test_a_branch_goes_on_as_the_run_that_it_leaves(tmp_path):
    """Same data, rate and optimizer; its own masks may be others."""
    masks = "corpus.masking={mode: dynamic, probability: 0.3, final_probability: 0.1}"
    growth = "train.first_batch=6", "train.batch_warmup=6"  # as long as the branch
    stable = settings(tmp_path, "stable", "optim.decay=0.5", *growth, *DROPLESS)
    fit(stable)
    checkpoint = RunPaths.of(stable).checkpoints / "checkpoint_000006"
    start = (f"train.init_from={checkpoint}", "train.init_state=branch", "train.steps=6", *growth)
    branch = settings(tmp_path, "branch", *start, "optim.warmup=0", *DROPLESS)
    preflight.check_data(branch)
    fit(branch)
    whole, own = losses(stable), losses(branch)
    assert own == {step: whole[step + 6] for step in (2, 4, 6)}
    preflight.check_data(settings(tmp_path, "masks", *start, "optim.warmup=0", masks))
    other = settings(tmp_path, "seed", *start, "optim.warmup=0", "run.seed=7")
    with pytest.raises(NezhaError, match="seed: was 42, is 7"):
        preflight.check_data(other)
    faster = settings(tmp_path, "faster", *start, "optim.warmup=0", "optim.lr=0.02")
    with pytest.raises(NezhaError, match=r"optim\.lr=0\.02, and the learning rate there is 0\.01;"):
        preflight.check_data(faster)
    ended = f"train.init_from={checkpoint.with_name('checkpoint_000012')}"
    decayed = settings(tmp_path, "decayed", ended, *start[1:], "optim.warmup=0")
    with pytest.raises(NezhaError, match="there is 0; take a checkpoint before the decay"):
        preflight.check_data(decayed)


def test_a_growing_batch_is_resumed_bit_for_bit(tmp_path):
    growth = "train.first_batch=6", "train.batch_warmup=8"
    masks = "corpus.masking={mode: dynamic, probability: 0.4, final_probability: 0.1}"
    courses = []
    for name in ("whole", "again"):
        config = settings(tmp_path, name, *growth, masks, "train.nsp_weight=0.5")
        state = fit(config)
        assert state["samples_seen"] == sum(6 + 10 * step // 8 for step in range(8)) + 4 * 16
        if name == "again":
            files.remove(RunPaths.of(config).checkpoints / "checkpoint_000012")
            fit(config)
        courses.append(losses(config))
    assert courses[0] == courses[1]


def test_ranks_agree_on_a_precision():
    assert spawn.run(2, agreed, "bf16", "bf16") == ["bf16", "bf16"]
    assert spawn.run(2, agreed, "fp32", "bf16") == ["fp32", "fp32"]


def agreed(*precisions):
    return opening.common_precision(precisions[torch.distributed.get_rank()])
