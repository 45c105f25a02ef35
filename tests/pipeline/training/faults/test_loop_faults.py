"""The loop skips bad steps, goes back past data that diverges, and stops when asked."""

import faulthandler
import os
import signal
import threading
import time

import pytest
import torch
from torch.nn import functional as F

from pipeline.errors import CheckpointError, Interrupted
from pipeline.files import journal
from pipeline.paths import RunPaths
from pipeline.settings.reading.config_file import with_changes
from pipeline.training import engine, loop
from pipeline.training.checkpoints import files, tensors
from pipeline.training.faults import divergence, events, failures, stop
from pipeline.training.faults.divergence import Diverged
from pipeline.training.faults.memory import OutOfMemory
from pipeline.training.launch import torchrun
from pipeline.training.measure import step_log
from pipeline.training.measure.lost_time import seconds_by_cause
from pipeline.training.objective import PretrainingObjective
from pipeline.training.start import opening
from tests.small_run import alone, fit, losses, settings, weights


def kinds(config):
    found = [event["kind"] for event in events.read(RunPaths.of(config).run)]
    return [kind for kind in found if kind != "start"]


def poison(monkeypatch, bad):
    """Losses of training become NaN whenever `bad` says so."""
    forward = PretrainingObjective.forward

    def poisoned(self, batch, *divisors):
        loss, statistics, right = forward(self, batch, *divisors)
        if self.training and bad():
            loss, statistics = loss * torch.nan, statistics * torch.nan
        return loss, statistics, right

    monkeypatch.setattr(PretrainingObjective, "forward", poisoned)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_bad_step_is_skipped_and_written_down(tmp_path, monkeypatch, stage):
    config = settings(tmp_path, "bad", f"engine.zero_stage={stage}")
    calls = iter(range(10**6))
    poison(monkeypatch, lambda: next(calls) == 6)  # the first micro-batch of step 4
    linear = F.linear
    fit(config)
    assert F.linear is linear  # DeepSpeed replaces it for ZeRO 3
    started, skipped = events.read(RunPaths.of(config).run)
    assert (started["kind"], skipped["kind"], skipped["step"]) == ("start", "skipped", 4)
    assert len(skipped["samples"]) == 16
    assert all(torch.isfinite(torch.tensor(loss)) for loss in losses(config).values())


@pytest.mark.parametrize(
    ("stage", "scale", "first"),
    [(1, "initial_scale_power: 2", 6), (3, "initial_scale_power: 2", 6), (2, "loss_scale: 4", 5)],
)
def test_a_run_in_fp16_diverges_once_its_loss_scale_cannot_fall(
    tmp_path, monkeypatch, stage, scale, first
):
    """Scale 4 becomes 2 after the first bad step and 1, the least, after the second."""
    engine._import_deepspeed("cpu")
    from deepspeed.accelerator import get_accelerator

    monkeypatch.setattr(type(get_accelerator()), "is_fp16_supported", lambda _: True)
    monkeypatch.setattr(engine, "check", lambda *_: None)
    scales = f"engine.deepspeed={{fp16: {{{scale}, hysteresis: 1}}}}"
    given = "train.precision=fp16", "train.profile_every=0", "faults.bad_steps=3"
    config = settings(tmp_path, "fp16", f"engine.zero_stage={stage}", scales, *given)
    calls = iter(range(10**6))
    poison(monkeypatch, lambda: next(calls) >= 8)  # from step 5 on
    with pytest.raises(Interrupted, match="gradients of 3 steps in a row are not finite"):
        fit(config)
    found = [event["step"] for event in events.read(RunPaths.of(config).run) if "step" in event]
    assert found[1:4] == [first, first + 1, first + 2]


def test_bad_steps_in_a_row_go_back_past_their_data(tmp_path, monkeypatch):
    growth = "train.first_batch=8", "train.batch_warmup=8"
    config = settings(tmp_path, "rewound", "faults.bad_steps=2", "train.profile_every=0", *growth)
    calls, poisoned = iter(range(10**6)), range(14, 18)  # steps 8 and 9
    poison(monkeypatch, lambda: next(calls) in poisoned)
    used = []
    iterate = opening.open_feed

    def open_feed(*arguments):
        feed = iterate(*arguments)
        step = feed.step
        feed.step = lambda *given: used.append(given) or step(*given)
        return feed

    monkeypatch.setattr(opening, "open_feed", open_feed)
    with pytest.raises(Interrupted, match="gradients of 2 steps in a row are not finite"):
        fit(config)
    used.clear()
    state = fit(config)
    # Behind step 6 of the checkpoint and 7 … 9 of the rewind; half of the steps are done.
    expected = [(9 + n, (6 + n) / 12) for n in range(6)]
    assert used == expected
    assert (state["step"], state["batches_skipped"]) == (12, 3)
    assert state["samples_seen"] == sum(range(8, 14)) + 6 * 16
    assert kinds(config) == ["skipped", "skipped", "rewind"]

    used.clear()
    files.remove(RunPaths.of(config).checkpoints / "checkpoint_000012")
    fit(config)
    assert used == expected  # a rerun does not replay what diverged


def test_a_loss_that_rises_with_a_new_phase_is_no_spike(tmp_path, monkeypatch):
    monkeypatch.setattr(divergence, "FEWEST", 2)
    shards = tmp_path / "harder/shards"
    later = f"[{{after: 6, sequence_length: 48, global_batch: 16, shards: [{shards}]}}]"
    config = settings(
        tmp_path, "harder", "train.log_every=1", "train.profile_every=0", f"train.phases={later}"
    )
    forward, calls = PretrainingObjective.forward, iter(range(10**6))

    def harder(self, batch, *divisors):
        loss, statistics, right = forward(self, batch, *divisors)
        if self.training and next(calls) >= 12:  # from step 7 on
            statistics = statistics * torch.tensor([3, 1, 1, 3, 1, 1])
        return loss, statistics, right

    monkeypatch.setattr(PretrainingObjective, "forward", harder)
    fit(config)
    files.remove(RunPaths.of(config).checkpoints / "checkpoint_000012")
    fit(config)  # on from the last step of the first phase
    assert losses(config)[7] > 2 * losses(config)[6]
    assert kinds(config) == []


def test_a_held_out_loss_that_is_not_finite_is_never_committed(tmp_path, monkeypatch):
    config = settings(tmp_path, "wild", "train.log_every=20", "faults.spike=stop")
    scores = {"mlm_loss": float("nan"), "mlm_accuracy": 0.0}
    monkeypatch.setattr(loop, "evaluate", lambda *_: scores)
    with pytest.raises(Diverged, match="step 6: the held-out loss is not finite"):
        fit(config)
    assert files.newest(RunPaths.of(config).checkpoints) is None


def test_sigterm_stops_with_a_checkpoint_from_which_the_run_is_as_if_undisturbed(tmp_path):
    whole, config = (settings(tmp_path, name) for name in ("whole", "asked"))
    fit(whole)
    history = RunPaths.of(config).run / "metrics.jsonl"

    def ask():
        while not history.exists() or not history.read_text():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=ask, daemon=True).start()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match=r"stopped after step \d+ of 12, with a checkpoint"):
        fit(config)
    assert signal.getsignal(signal.SIGTERM) == before
    assert not stop.requested(RunPaths.of(config).run)
    newest = files.newest(RunPaths.of(config).checkpoints)
    assert files.step_of(newest) < 12
    assert kinds(config) == ["interrupted"]
    fit(config)
    assert losses(config) == losses(whole)
    assert weights(config, 12) == weights(whole, 12)


def test_a_stop_between_two_logged_steps_changes_no_logged_loss(tmp_path, monkeypatch):
    whole, config = (settings(tmp_path, name, "train.log_every=4") for name in ("whole", "asked"))
    fit(whole)
    asked = iter([False] * 4 + [True])
    monkeypatch.setattr(stop, "requested", lambda run: next(asked))
    with pytest.raises(Interrupted, match="step 5 of 12"):
        fit(config)
    monkeypatch.setattr(stop, "requested", lambda run: False)
    fit(config)
    assert losses(config) == losses(whole)


def test_out_of_memory_says_what_to_lower_and_halves_the_micro_batch(tmp_path, monkeypatch):
    """As if more than four samples did not fit."""
    whole = settings(tmp_path, "whole", "train.micro_batch=4")
    fit(whole)
    forward = PretrainingObjective.forward

    def limited(self, batch, *divisors):
        if self.training and len(batch.next_sentence_label) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB.")
        return forward(self, batch, *divisors)

    monkeypatch.setattr(PretrainingObjective, "forward", limited)
    config = settings(tmp_path, "large")
    with pytest.raises(
        OutOfMemory, match=r"asked for 2.50 GiB more; the peak so far was \d"
    ) as error:
        fit(config)
    assert "lower train.micro_batch (now 8; the global batch stays)" in str(error.value)
    assert not [each for each in threading.enumerate() if each.name.startswith("feed")]
    shrinking = with_changes(config, {"faults.shrink_on_oom": True}, "")
    with pytest.raises(Interrupted, match="goes on with half the micro-batch") as stopped:
        fit(shrinking)
    assert "set faults.shrink_on_oom" not in str(stopped.value)  # it is set
    assert fit(shrinking)["samples_seen"] == 12 * 16
    assert kinds(config) == ["stop", "shrink"]
    assert losses(config) == losses(whole)


def test_a_network_that_does_not_fit_is_told_without_smaller_batches(tmp_path, monkeypatch):
    """The micro-batch was halved in vain, start by start."""
    config = settings(tmp_path, "wide", "faults.shrink_on_oom=true")

    def initialize(*given):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB.")

    monkeypatch.setattr(engine, "initialize", initialize)
    with pytest.raises(OutOfMemory, match="the network and the optimizer's state do not fit"):
        fit(config)
    assert "shrink" not in [event["kind"] for event in events.read(RunPaths.of(config).run)]


def test_each_rank_whose_memory_runs_out_records_the_same_micro_batch(tmp_path, monkeypatch):
    config = settings(tmp_path, "large", "faults.shrink_on_oom=true")

    def fail(*_):
        raise OutOfMemory("out of memory", 8)

    monkeypatch.setattr(torchrun, "train", fail)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(Interrupted, match="goes on with half the micro-batch"):
            fit(config)
        assert failures.shrunk(config, events.read(RunPaths.of(config).run)).train.micro_batch == 4


def noticed(report):
    """A worker whose node will be taken away, as it knows from step 4 on."""
    calls = iter(range(100))
    return alone(report=report, preempted=lambda: next(calls) >= 3)


def test_a_notice_of_preemption_gives_one_checkpoint_and_training_goes_on(tmp_path):
    config, written = settings(tmp_path, "notice"), []
    context = noticed(lambda _, folder: written.append(folder.name))
    assert loop.train(config, context)["step"] == 12
    assert written == [f"checkpoint_0000{step}" for step in ("04", "06", "12")]
    (told,) = [e for e in events.read(RunPaths.of(config).run) if e["kind"] == "preempted"]
    assert "checkpoint_000004 was written before" in told["text"]


def test_a_checkpoint_that_a_preemption_could_not_get_is_not_told_as_written(tmp_path, monkeypatch):
    write = tensors.write

    def full_at_step_4(file, *given):
        if "checkpoint_000004" in str(file):
            raise OSError(28, "No space left on device")
        return write(file, *given)

    monkeypatch.setattr(tensors, "write", full_at_step_4)
    patience = ("train.checkpoint_errors=continue", "train.checkpoint_retry_seconds=0.1")
    config = settings(tmp_path, "full", *patience)
    assert loop.train(config, noticed(lambda *_: None))["step"] == 12
    assert kinds(config) == ["storage"]
    # As the last checkpoint of a run, it is also the result.
    config = settings(tmp_path, "end", "train.steps=4", *patience)
    with pytest.raises(CheckpointError, match="No space left"):
        loop.train(config, noticed(lambda *_: None))


def test_a_restart_by_torchrun_is_no_time_between_commands(tmp_path, monkeypatch):
    config = settings(tmp_path, "again", "train.steps=6")
    paths = RunPaths.of(config)
    fit(config)
    files.remove(paths.checkpoints / "checkpoint_000006")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    fit(config)
    lines = journal.read(paths.run / step_log.FILE)
    seconds = seconds_by_cause(lines, step_log.attempts(events.read(paths.run)))
    assert seconds["between commands"] == 0 < seconds["restart"]


def test_the_time_to_repeat_a_checkpoint_is_no_hang(tmp_path, monkeypatch):
    """The watchdog would end a worker that waits, rightly, for storage that is full."""
    limits = []
    monkeypatch.setattr(
        faulthandler, "dump_traceback_later", lambda seconds, **_: limits.append(seconds)
    )
    patience = ("faults.hang_seconds=60", "train.checkpoint_retry_seconds=100")
    config = settings(tmp_path, "patient", "train.steps=6", *patience)
    loop.train(config, alone())
    # When the only checkpoint is begun, when it is awaited, and when the worker ends.
    assert [seconds for seconds in limits if seconds != 60] == [60 + 2 * 100] * 3

    def fail(*_):
        raise RuntimeError("another rank is gone")

    config = settings(tmp_path, "failed", "train.steps=6", *patience)
    with pytest.raises(RuntimeError, match="is gone"):
        loop.train(config, alone(report=fail))
    assert limits[-1] == 60 + 2 * 100  # the checkpoint that was begun is still completed
