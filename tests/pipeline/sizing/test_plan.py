"""A plan against the real network, and against a run."""

import re

import pytest

from pipeline.corpus.samples.vocabulary import read_vocabulary
from pipeline.corpus.shards.format import read_manifest
from pipeline.errors import ConfigError
from pipeline.paths import RunPaths
from pipeline.settings.reading.config_file import load_config
from pipeline.sizing import benchmark, model, plan, plan_table
from pipeline.training.checkpoints import files
from pipeline.training.objective import PretrainingObjective
from pipeline.training.start.network import (
    build_network,
    count_parameters,
    network_config,
    vocabulary_size,
)
from tests.benchmarks import pretrain
from tests.corpora import write_vocabulary
from tests.small_run import fit, settings

GPU = ("plan.device=A100-SXM", "scaling.workers=16", "plan.memory_gigabytes=40")


def test_activations_of_any_depth_follow_from_one_and_two_layers():
    config = load_config(None, ["model={size: tiny, num_hidden_layers: 5}"])
    shape = network_config(config.model, config.corpus.vocab_size)
    objective = PretrainingObjective(build_network(shape, 0, "auto"))
    for samples, mean in ((4, 128), (13, 40)):  # of about 512 tokens
        inputs = benchmark.random_batch(config, samples, mean)
        kept = benchmark._kept(objective, inputs) / len(inputs.input_ids)
        found = benchmark.activation_bytes(config, shape, mean)
        assert found == pytest.approx(kept, rel=0.02)


@pytest.mark.parametrize("size", ["base", "large"])
def test_nezha_on_gpus_that_are_not_here(size, monkeypatch):
    monkeypatch.setattr(benchmark, "activation_bytes", lambda *_: 1e5)
    config = load_config(f"jobs/configs/nezha_{size}.yaml", GPU)
    made = plan.make(config)
    assert made.network.parameters == pytest.approx({"base": 103e6, "large": 326e6}[size], rel=0.03)
    # Computing alone: operations over what the GPUs do.
    peak = 16 * 312e12 * config.plan.mfu
    assert made.step.compute == pytest.approx(made.tokens * made.network.flops_per_token / peak)
    assert sum(made.memory[1]) > sum(made.memory[2]) > sum(made.memory[3])
    assert made.cost == 0
    shown = plan_table.rows(config, made)
    assert "assumed (plan.mfu=0.3)" in shown["speed of a worker"]
    assert "(chosen)" in " ".join(shown)
    priced = load_config(f"jobs/configs/nezha_{size}.yaml", [*GPU, "plan.hourly_price=2"])
    assert plan.make(priced).cost == pytest.approx(made.seconds / 3600 * 16 * 2)
    assert plan_table.rows(priced, plan.make(priced))["cost"].endswith(" h × 2")


@pytest.mark.parametrize(
    ("gigabytes", "told"),
    [("0.1", "^0 samples.*nothing fits"), ("5", "32 of the batch do not fit"), ("80", r"free\)$")],
)
def test_what_does_not_fit_is_told(monkeypatch, gigabytes, told):
    """Where nothing fits, the row was missing."""
    monkeypatch.setattr(benchmark, "activation_bytes", lambda *_: 2e6)
    given = [*GPU, "train.global_batch=512", f"plan.memory_gigabytes={gigabytes}"]
    config = load_config(None, given)
    assert re.search(told, plan_table.rows(config, plan.make(config))["largest micro-batch"])
    unknown = load_config(None, [*given, "plan.memory_gigabytes=null"])
    assert "largest micro-batch" not in plan_table.rows(unknown, plan.make(unknown))


def test_recomputed_activations_leave_room_for_a_larger_micro_batch():
    plain, recomputed = (
        plan.make(
            load_config(
                None, [*GPU, "model={size: tiny}", f"engine.activation_checkpointing={chosen}"]
            )
        )
        for chosen in (False, True)
    )
    assert recomputed.memory[1].activations < plain.memory[1].activations
    assert recomputed.largest_micro_batch > plain.largest_micro_batch


def test_each_phase_takes_its_own_time_and_memory(monkeypatch):
    monkeypatch.setattr(benchmark, "activation_bytes", lambda *_: 1e5)
    steps = [*GPU, "train.steps=100", "train.global_batch=256", "train.micro_batch=16"]
    later = "train.phases=[{after: 90, sequence_length: 512, global_batch: 128}]"
    short, grown, phased = (
        plan.make(load_config(None, [*steps, *more]))
        for more in ([], ["train.first_batch=64", "train.batch_warmup=50"], [later])
    )
    assert short.seconds == pytest.approx(100 * sum(short.step) / short.goodput.share)
    assert grown.step == phased.step == short.step
    assert grown.seconds < short.seconds < phased.seconds
    assert phased.memory[1].activations == pytest.approx(8 * 512 * 1e5 / 2)
    assert short.memory[1].activations == pytest.approx(16 * 128 * 1e5 / 2)


def test_checkpoints_that_are_kept_for_ever_take_disk(monkeypatch):
    monkeypatch.setattr(benchmark, "activation_bytes", lambda *_: 1e5)
    steps = ["train.steps=1000", "train.checkpoint_every=100", "train.keep_last=3"]
    for every, kept in ((0, 5), (200, 10)):
        made = plan.make(load_config(None, [*GPU, *steps, f"train.keep_every={every}"]))
        assert made.disk["checkpoints"] == kept * made.checkpoint


def test_a_short_run_has_minutes_and_shards_that_nobody_knows_have_no_size(monkeypatch):
    monkeypatch.setattr(benchmark, "activation_bytes", lambda *_: 1e5)
    for given, time, shards in (
        (["train.steps=10"], "minutes = 10 steps", "shards unknown: give plan.corpus_gigabytes, "),
        (["train.steps=1000000", "plan.corpus_gigabytes=1"], "days = 1,000,000 steps", " GB, "),
    ):
        config = load_config(None, [*GPU, *given])
        shown = plan_table.rows(config, plan.make(config))
        assert time in shown["run"]
        assert shards in shown["disk"]


def test_the_samples_of_prepared_corpora_are_planned_with(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "activation_bytes", lambda *_: 1e5)
    for name, length in (("short", 32), ("long", 64)):
        pretrain.write_prose(tmp_path / name, length, 20)
    corpora = [read_manifest(tmp_path / name) for name in ("short", "long")]
    tokens = sum(each.tokens for each in corpora)
    mean = tokens / sum(each.rows for each in corpora)
    files = f"train.shards=[{tmp_path / 'short'}, {tmp_path / 'long'}]"
    made = plan.make(load_config(None, [*GPU, files, "train.micro_batch=8"]))
    assert made.tokens == pytest.approx(256 * mean)
    assert made.memory[1].activations == pytest.approx(round(8 * mean) * 1e5 / 2)
    assert made.disk["shards"] == sum(each.bytes for each in corpora)
    short, long = (each.tokens / each.rows for each in corpora)
    mixed = f"train.shards=[{tmp_path / 'short'}@0.6, {tmp_path / 'long'}@0.2]"
    tokens = plan.make(load_config(None, [*GPU, mixed])).tokens
    assert tokens == pytest.approx(256 * (0.75 * short + 0.25 * long))
    missing = f"train.shards=[{tmp_path / 'short'}, {tmp_path / 'none'}]"
    assert plan.make(load_config(None, [*GPU, missing])).tokens == 256 * 128


def test_a_given_vocabulary_is_planned_with(tmp_path):
    vocab = write_vocabulary(tmp_path / "given.txt")
    entries = len(read_vocabulary(vocab))
    config = load_config(None, [*GPU, "model={size: tiny}", f"corpus.vocab={vocab}"])
    shape = network_config(config.model, entries)
    assert plan.make(config).network.parameters == count_parameters(shape)
    assert benchmark.random_batch(config, 4).input_ids.max() < entries


def test_a_checkpoint_takes_what_was_planned(tmp_path):
    config = settings(tmp_path, "stored", "train.steps=6", "scaling.workers=1")
    fit(config)
    paths = RunPaths.of(config)
    shape = network_config(config.model, vocabulary_size(config))
    planned = model.checkpoint_bytes(count_parameters(shape))
    stored = sum(path.stat().st_size for path in files.newest(paths.checkpoints).iterdir())
    # Beside the tensors there are their names, the settings and the state of the run.
    assert planned < stored < 1.1 * planned


def test_workers_are_those_that_the_run_would_have(monkeypatch):
    monkeypatch.setattr(plan.ray_cluster, "connect", lambda: None)
    monkeypatch.setattr(plan.ray_cluster, "count", {"GPU": 16, "CPU": 96}.__getitem__)
    assert plan._workers(load_config(None, [])) == 16
    assert plan._workers(load_config(None, ["scaling.gpus_per_worker=0"])) == 2
    assert plan._workers(load_config(None, ["scaling.workers=3"])) == 3


@pytest.mark.ray
def test_a_worker_that_fits_no_cluster_is_refused(ray_cluster):
    with pytest.raises(ConfigError, match="need 1000 CPUs"):
        benchmark.measure(load_config(None, ["scaling.cpus_per_worker=1000"]), 1, 8, print)


def test_what_is_missing_is_said():
    with pytest.raises(ConfigError, match=r"scaling\.workers: say how many"):
        plan.make(load_config(None, ["plan.device=A100-SXM"]))
    with pytest.raises(ConfigError, match=r"plan\.device=Abacus: the peak in bf16 is not known"):
        plan.make(load_config(None, ["plan.device=Abacus", "scaling.workers=2"]))


def test_the_plan_is_held_against_the_run(tmp_path):
    config = settings(tmp_path, "planned", "train.steps=6", "scaling.workers=1")
    profile = benchmark.WorkerProfile("here", 0.0, 2e9, 100, "fp32", 1e-5, 1e-9)
    assert plan_table.compare(config) == {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "measure", lambda *_: profile)
        made = plan.make(config)
    # One worker with the measured micro-batch takes what was measured, and writes checkpoints.
    alone = made.memory[1]
    known = sum(alone) - alone.activations - alone.checkpoint
    assert known + 100 * made.network.activation_bytes == pytest.approx(2e9)
    assert alone.checkpoint == model.checkpoint_bytes(made.network.parameters)
    assert plan_table.save(config, made)
    fit(config)
    found = plan_table.compare(config)
    assert found.keys() == {"step_seconds", "tokens_per_second", "peak_gigabytes"}
    assert "%" in found["step_seconds"]
    other = settings(tmp_path, "planned", "train.steps=6", "scaling.workers=1", "optim.lr=0.5")
    assert plan_table.compare(other) == found
    other = settings(tmp_path, "planned", "train.steps=9", "scaling.workers=1")
    assert plan_table.compare(other) == {}
    assert not plan_table.save(other, made)
    assert plan_table.compare(config) == found
