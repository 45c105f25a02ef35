"""State is restored bit for bit, on any world size and at any ZeRO stage."""

import shutil

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.errors import CheckpointError
from pipeline.settings.config import Config
from pipeline.settings.reading.config_file import dump_yaml
from pipeline.training import batch_split, engine
from pipeline.training.checkpoints import files, state, tensors
from pipeline.training.checkpoints.writer import Writer
from tests.pipeline.training import networks, spawn

LAYOUTS = [(stage, precision) for precision in ("fp32", "bf16") for stage in (1, 2, 3)]
STATE = {"step": 3, "heldout": {"mlm_loss": 1.0}}


def settings(stage):
    return {"engine": {"zero_stage": stage}, "optim": {"lr": 0.01, "clip": 0.5}}


def save(worker, folder, step, content, config):
    """A complete checkpoint."""
    writer = Writer(folder, Config().train, print)
    path = writer.begin(worker, step, content, config)
    writer.wait()
    return path


def train_and_save(stage, precision, folder, dropout):
    """Six steps of four micro-batches, saved after the third."""
    accumulation = 4 // torch.distributed.get_world_size()
    worker = networks.make_engine(settings(stage), 16, accumulation, precision, dropout)
    networks.train(worker, range(3))
    config = dump_yaml(Config.model_validate(settings(stage)))
    path = save(worker, folder, 3, STATE, config)
    halfway = networks.full_state_dict(worker)
    losses = networks.train(worker, range(3, 6))
    return path, losses, halfway, networks.full_state_dict(worker)


def resume(stage, precision, path, dropout):
    accumulation = 4 // torch.distributed.get_world_size()
    worker = networks.make_engine(settings(stage), 16, accumulation, precision, dropout)
    saved = state.restore(worker, path)
    restored = networks.full_state_dict(worker)
    losses = networks.train(worker, range(saved["step"], 6))
    steps = {values["step"] for values in engine.optimizer_of(worker).state.values()}
    assert (saved, steps, worker.global_steps) == (STATE, {6}, 6)
    return losses, restored, networks.full_state_dict(worker)


def save_all(folder, layouts, dropout):
    return {
        key: train_and_save(*key, folder / f"{dropout}-{i}", dropout)
        for i, key in enumerate(layouts)
    }


def resume_all(jobs, dropout):
    return [resume(stage, precision, path, dropout) for stage, precision, path in jobs]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Checkpoints of two workers in every layout, without dropout, and how the runs continued."""
    return spawn.run(2, save_all, tmp_path_factory.mktemp("saved"), LAYOUTS, 0.0)[0]


@pytest.fixture
def path(saved, tmp_path):
    """A copy of one checkpoint that a test may damage."""
    source = saved[1, "fp32"][0]
    return shutil.copytree(source, tmp_path / source.name)


def test_the_same_layout_continues_bit_for_bit(tmp_path):
    """With dropout, losses and weights."""
    before = spawn.run(2, save_all, tmp_path, LAYOUTS, 0.3)[0]
    jobs = [(*key, before[key][0]) for key in LAYOUTS]
    after = spawn.run(2, resume_all, jobs, 0.3)[0]
    for key, (losses, restored, final) in zip(LAYOUTS, after, strict=True):
        _, expected_losses, halfway, expected = before[key]
        assert losses == expected_losses, key
        for name in expected:
            assert torch.equal(restored[name], halfway[name]), (key, name)
            assert torch.equal(final[name], expected[name]), (key, name)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_other_world_sizes_and_stages_continue_alike(saved, world_size):
    """Weights are restored exactly, and the run ends where the uninterrupted one did."""
    pairs = [
        ((stage, precision), other)
        for stage, precision in LAYOUTS
        for other in {stage, stage % 3 + 1}
        if (other, world_size) != (stage, 2)
    ]
    jobs = [(other, source[1], saved[source][0]) for source, other in pairs]
    results = spawn.run(world_size, resume_all, jobs, 0.0)[0]
    for (source, other), (losses, restored, final) in zip(pairs, results, strict=True):
        _, expected_losses, halfway, expected = saved[source]
        assert losses == pytest.approx(expected_losses, rel=2e-5), (source, other)
        for name in expected:
            assert torch.equal(restored[name], halfway[name]), (source, other, name)
            difference = (final[name] - expected[name]).abs().max()
            assert difference < 2e-5, (source, other, name, difference)


def test_another_precision_restores_the_master_weights(saved):
    source, _, halfway, _ = saved[1, "bf16"]
    ((_, restored, _),) = spawn.run(1, resume_all, [(2, "fp32", source)], 0.0)[0]
    for name in halfway:
        assert torch.equal(restored[name], halfway[name]), name


def begin_all(jobs):
    results = []
    for stage, path in jobs:
        worker = networks.make_engine(settings(stage), 16, 4)
        state.begin_from(worker, path)
        losses = networks.train(worker, range(3, 6))
        results.append((losses, worker.global_steps, networks.full_state_dict(worker)))
    return results


def test_another_run_may_start_from_the_full_state(saved):
    """On the next batches it ends where the first run did; its steps are counted anew."""
    sources = [(1, 1), (1, 3), (2, 1)]
    jobs = [(other, saved[source, "fp32"][0]) for source, other in sources]
    (results,) = spawn.run(1, begin_all, jobs)
    for (source, _), (losses, steps, final) in zip(sources, results, strict=True):
        _, expected_losses, _, expected = saved[source, "fp32"]
        assert (losses, steps) == (pytest.approx(expected_losses, rel=2e-5), 3)
        assert all((final[name] - expected[name]).abs().max() < 2e-5 for name in expected)


def test_an_export_has_no_full_state(tmp_path):
    with pytest.raises(CheckpointError, match=r"no optimizer state.*train\.init_state=weights"):
        state.begin_from(None, tmp_path)


def test_it_holds_what_an_export_needs(path, saved):
    weights = state.read_weights(path)
    halfway = saved[1, "fp32"][2]
    assert weights.keys() == dict(networks.build().named_parameters()).keys()
    for name, weight in weights.items():
        assert torch.equal(weight, halfway[name])
    network = networks.build(seed=9)
    state.load_weights(network, path)
    assert torch.equal(network.first.weight, halfway["first.weight"])
    assert files.read_state(path) == STATE
    assert files.read_config(path) == Config.model_validate(settings(1))
    assert files.read_hashes(path).keys() >= {tensors.file_of(0), tensors.file_of(1)}


def test_another_network_is_refused_by_name(path, tmp_path):
    network = nn.ModuleDict({"first": nn.Linear(3, 4), "extra": nn.Linear(2, 2)})
    with pytest.raises(CheckpointError, match=r"another network.*first\.weight.*extra\.bias"):
        state.load_weights(network, path)
    with pytest.raises(CheckpointError, match=r"no readable model\.safetensors"):
        state.load_weights(network, tmp_path)
    spawn.run(1, refuse_another_network, path)


def refuse_another_network(path):
    split = batch_split.Split(4, 1, 1)
    worker = engine.initialize(nn.Linear(3, 2), Config.model_validate(settings(1)), split, "fp32")
    with pytest.raises(CheckpointError, match=r"another network.*norm\.weight"):
        state.restore(worker, path)


def test_tied_weights_are_stored_once(tmp_path):
    network = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    network[1].weight = network[0].weight
    save_file({"0.weight": torch.ones(3, 3)}, tmp_path / state.EXPORTED)
    state.load_weights(network, tmp_path)
    assert torch.equal(network[1].weight.detach(), torch.ones(3, 3))


def test_a_damaged_checkpoint_is_refused(path):
    (path / tensors.file_of(1)).unlink()
    spawn.run(2, refuse_damaged, path)


def refuse_damaged(path):
    """On every rank, not only on the one that verifies."""
    worker = networks.make_engine(settings(1))
    with pytest.raises(CheckpointError, match="missing"):
        state.begin_from(worker, path)
