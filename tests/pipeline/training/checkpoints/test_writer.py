"""Checkpoints are written beside the training; what goes wrong there reaches every rank."""

import threading

import pytest
import torch

from pipeline.errors import CheckpointError
from pipeline.settings.config import Config
from pipeline.settings.reading.config_file import dump_yaml
from pipeline.settings.training import TrainSettings
from pipeline.training import engine
from pipeline.training.checkpoints import files, state, tensors
from pipeline.training.checkpoints.writer import Writer
from tests.pipeline.training import networks, spawn

CONFIG = dump_yaml(Config())
PATIENCE = 0.2


def begin(writer, worker, step):
    return writer.begin(worker, step, {"step": step}, CONFIG)


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path):
    """The state of its step is stored, whatever training does meanwhile; the next one waits."""
    spawn.run(2, train_meanwhile, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint_000003",
        "checkpoint_000006",
    ]


def train_meanwhile(folder):
    worker = networks.make_engine({})
    writer, gate, write = Writer(folder, TrainSettings(), print), threading.Event(), tensors.write

    def slow(*arguments):
        gate.wait()
        return write(*arguments)

    tensors.write = slow
    networks.train(worker, range(3))
    expected = networks.full_state_dict(worker)
    path = begin(writer, worker, 3)
    networks.train(worker, range(3, 6))
    assert not path.exists()
    threading.Timer(0.3, gate.set).start()
    last = begin(writer, worker, 6)
    assert path.exists()
    writer.wait(final=True)
    assert last.exists()
    seconds = writer.take_seconds()
    assert seconds["speed/checkpoint_wait_seconds"] > 0.2
    assert seconds.keys() >= {"speed/checkpoint_copy_seconds", "speed/checkpoint_write_seconds"}
    if expected is not None:
        stored = state.read_weights(path)
        assert all(torch.equal(stored[name], expected[name]) for name in expected)


def test_nothing_is_stored_twice(tmp_path):
    """Three fp32 numbers for each parameter, over all files; a header and the texts besides."""
    size = 2 * spawn.run(2, save_one, tmp_path)[0]
    files_of = list((tmp_path / "checkpoint_000001").iterdir())
    assert size < sum(path.stat().st_size for path in files_of) < 1.7 * size


def save_one(folder):
    worker = networks.make_engine({"engine": {"zero_stage": 3}})
    writer = Writer(folder, TrainSettings(), print)
    networks.train(worker, range(1))
    begin(writer, worker, 1)
    writer.close()
    numbers = sum(getattr(p, "ds_numel", p.numel()) for p in worker.module.parameters())
    return numbers * 4 * 3 / 2


@pytest.mark.parametrize("broken", [0, 1])
def test_a_failed_write_is_an_error_on_every_rank_and_leaves_the_old_one(tmp_path, broken):
    spawn.run(2, fail_to_write, tmp_path, broken)
    (left,) = tmp_path.iterdir()
    assert files.recover(tmp_path, print) == left


def fail_to_write(folder, broken):
    worker = networks.make_engine({})
    writer = Writer(folder, TrainSettings(checkpoint_retry_seconds=PATIENCE), print)
    begin(writer, worker, 1)
    writer.wait()
    refuse(broken)
    begin(writer, worker, 2)
    with pytest.raises(CheckpointError, match=r"_000002 could not be .* for 0\.2 s: .*No space"):
        begin(writer, worker, 3)
    writer.close()


def refuse(broken, times=10**6):
    """Rank `broken` cannot write for so many times."""
    write, refusals = tensors.write, [1] * times

    def full(*arguments):
        if torch.distributed.get_rank() == broken and refusals:
            refusals.pop()
            raise OSError(28, "No space left on device")
        return write(*arguments)

    tensors.write = full
    return refusals


def test_ranks_wait_for_each_other_as_long_as_the_storage_may_take(tmp_path, monkeypatch):
    """By default, gloo gives up after half an hour."""
    limits = []
    monkeypatch.setattr(
        torch.distributed, "new_group", lambda timeout, **_: limits.append(timeout.total_seconds())
    )
    Writer(tmp_path, TrainSettings(checkpoint_retry_seconds=3600), print)
    assert limits[0] > 2 * 3600


def test_training_may_go_on_without_a_checkpoint_but_not_end_so(tmp_path):
    for told in spawn.run(2, go_on, tmp_path):
        assert [line.split(":")[0] for line in told] in (
            [],
            ["training goes on without a checkpoint"],
        )


def go_on(folder):
    worker, told = networks.make_engine({}), []
    settings = TrainSettings(checkpoint_retry_seconds=PATIENCE, checkpoint_errors="continue")
    writer = Writer(folder, settings, told.append)
    refuse(1)
    begin(writer, worker, 1)
    begin(writer, worker, 2)
    assert bool(told) == (torch.distributed.get_rank() == 0)
    with pytest.raises(CheckpointError, match="No space"):
        writer.wait(final=True)
    return told


def test_a_write_waits_for_storage_that_comes_back(tmp_path):
    spawn.run(2, write_on_slow_storage, tmp_path)
    assert files.recover(tmp_path, print).name == "checkpoint_000004"


def write_on_slow_storage(folder):
    worker = networks.make_engine({})
    writer, refusals = Writer(folder, TrainSettings(), print), refuse(1, times=2)
    begin(writer, worker, 4)
    writer.wait()
    assert not refusals or torch.distributed.get_rank() == 0


def test_an_error_of_the_training_leaves_the_checkpoint_that_was_begun(tmp_path):
    spawn.run(2, fail_to_train, tmp_path)
    assert files.recover(tmp_path, print).name == "checkpoint_000001"


def fail_to_train(folder):
    """On one rank; the other one has begun to write too."""
    writer = Writer(folder, TrainSettings(), print)
    begin(writer, networks.make_engine({}), 1)
    try:
        raise RuntimeError
    except RuntimeError:
        writer.close()


def test_an_engine_of_half_precision_is_stored_in_full(tmp_path):
    spawn.run(1, save_half, tmp_path)


def save_half(folder):
    worker = networks.make_engine({}, precision="bf16")
    networks.train(worker, range(2))
    writer = Writer(folder, TrainSettings(), print)
    path = begin(writer, worker, 2)
    writer.wait()
    expected = networks.full_state_dict(worker)
    assert engine.HALF["bf16"] not in {weight.dtype for weight in expected.values()}
    stored = state.read_weights(path)
    assert all(torch.equal(stored[name], expected[name]) for name in expected)
