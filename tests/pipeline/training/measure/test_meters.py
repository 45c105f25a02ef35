"""Where a step's time goes, collectives told apart."""

import time

import pytest
import torch
import torch.distributed as dist

from pipeline.training import engine
from pipeline.training.measure.communication import COLLECTIVES, Stopwatch
from pipeline.training.measure.meters import Clock
from tests.pipeline.training import networks, spawn

CPU = torch.device("cpu")
DELAY = 0.05


def test_parts_of_a_step_by_hand(monkeypatch):
    now = iter([0.0, 1.0, 1.0, 4.0, 4.0, 9.0, 9.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    clock = Clock(CPU)
    with clock.step(on=False):
        clock.lap("forward")
        clock._communication.seconds = 2.0
        clock.lap("backward")
    shares = {"data": 1 / 9, "forward": 3 / 9, "backward": 3 / 9, "communication": 2 / 9}
    assert clock.shares() == pytest.approx({f"time/{key}": share for key, share in shares.items()})


def measured_steps(stage):
    """Four steps, of which the last two are measured: shares, final weights."""
    worker = networks.make_engine({"engine": {"zero_stage": stage}}, 16, 2)
    clock, shares = Clock(CPU), []
    untouched = {name: getattr(dist, name, None) for name in COLLECTIVES}
    for number in range(4):
        with clock.step(on=number > 1):
            networks.train(worker, range(number, number + 1))
            clock.lap("train")
        shares.append(clock.shares())
    assert untouched == {name: getattr(dist, name, None) for name in COLLECTIVES}
    return shares, engine.full_state_dict(worker)


def steps(stage):
    worker = networks.make_engine({"engine": {"zero_stage": stage}}, 16, 2)
    networks.train(worker, range(4))
    return engine.full_state_dict(worker)


def all_stages():
    return [(measured_steps(stage), steps(stage)) for stage in range(4)]


def test_communication_is_told_apart_and_changes_nothing():
    for rank in spawn.run(2, all_stages):
        for (shares, weights), expected in rank:
            for step in shares:
                assert sum(step.values()) == pytest.approx(1.0)
            assert [step["time/communication"] > 0 for step in shares] == [False, False, True, True]
            assert all(torch.equal(weights[name], expected[name]) for name in expected or ())


def late():
    stopwatch, number = Stopwatch(CPU), torch.ones(1)
    with stopwatch.running():
        time.sleep(DELAY * dist.get_rank())
        done = dist.all_reduce(number, async_op=True).is_completed()
        measured = stopwatch.seconds
    dist.all_reduce(number)
    assert stopwatch.seconds == measured > 0  # outside nothing is timed
    return done, number.item()


def test_asynchronous_collectives_are_timed_to_their_end():
    """Also where DeepSpeed has not begun."""
    assert spawn.run(2, late) == [(True, 4.0)] * 2
