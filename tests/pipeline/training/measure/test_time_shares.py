"""Shares of a step's time, collectives included."""

import time
from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist

from pipeline.training.measure.time_shares import COLLECTIVES, CollectiveTimer, StepProfiler
from tests.pipeline.training import networks, spawn

CPU = torch.device("cpu")
DELAY = 0.05


def test_parts_of_a_step_by_hand(monkeypatch):
    now = iter([0.0, 1.0, 1.0, 4.0, 4.0, 9.0, 9.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    profiler = StepProfiler(CPU, every=1)
    monkeypatch.setattr(profiler._collectives, "running", nullcontext)
    with profiler.step(1):
        profiler.lap("forward")
        profiler._collectives.seconds = 2.0
        profiler.lap("backward")
    shares = {"data": 1 / 9, "forward": 3 / 9, "backward": 3 / 9, "communication": 2 / 9}
    expected = pytest.approx({f"time/{key}": share for key, share in shares.items()})
    assert profiler.take_shares() == expected
    assert profiler.take_shares() == {}


def measured_steps(stage):
    """Four steps, the second and fourth of them measured; returns shares and final weights."""
    worker = networks.make_engine({"engine": {"zero_stage": stage}}, 16, 2)
    profiler, shares = StepProfiler(CPU, every=2), []
    untouched = {name: getattr(dist, name, None) for name in COLLECTIVES}
    for number in range(4):
        with profiler.step(number + 1):
            networks.train(worker, range(number, number + 1))
            profiler.lap("train")
        shares.append(profiler.take_shares())
    assert untouched == {name: getattr(dist, name, None) for name in COLLECTIVES}
    return shares, networks.full_state_dict(worker)


def steps(stage):
    worker = networks.make_engine({"engine": {"zero_stage": stage}}, 16, 2)
    networks.train(worker, range(4))
    return networks.full_state_dict(worker)


def all_stages():
    return [(measured_steps(stage), steps(stage)) for stage in (1, 2, 3)]


def test_measuring_communication_changes_nothing():
    for rank in spawn.run(2, all_stages):
        for (shares, weights), expected in rank:
            assert [bool(step) for step in shares] == [False, True, False, True]
            for step in shares[1::2]:
                assert sum(step.values()) == pytest.approx(1.0)
                assert step["time/communication"] > 0
            assert all(torch.equal(weights[name], expected[name]) for name in expected or ())


def late():
    timer, number = CollectiveTimer(CPU), torch.ones(1)
    with timer.running():
        time.sleep(DELAY * dist.get_rank())
        done = dist.all_reduce(number, async_op=True).is_completed()
        measured = timer.seconds
    dist.all_reduce(number)
    assert timer.seconds == measured > 0  # outside nothing is timed
    return done, number.item()


def test_asynchronous_collectives_are_timed_to_their_end():
    """Also before DeepSpeed has initialised its own."""
    assert spawn.run(2, late) == [(True, 4.0)] * 2
