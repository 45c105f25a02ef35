"""The wall time of a run is divided among causes, without rest."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.training.measure.lost_time import goodput, seconds_by_cause
from pipeline.training.measure.step_log import Attempt, Owners


def step(attempt, number, end, applied=True, **seconds):
    return {"attempt": attempt, "step": number, "end": end, "applied": applied, "seconds": seconds}


def test_every_second_has_a_cause():
    """A command is killed after step 3, whose checkpoint is that of step 2; another goes on."""
    attempts = [Attempt(1, 0, 0, 2, {}), Attempt(2, 2, 0, 2, {}), Attempt(3, 3, 0, 1, {})]
    lines = [
        {"command": True, "end": 100.0},
        step(1, 1, 120.0, data=1.0, step=9.0),  # 10 s after the start
        step(1, 2, 130.0, data=0.5, step=9.5),
        step(1, 3, 145.0, checkpoint=5.0, step=10.0),
        step(2, 3, 170.0, step=10.0),  # 15 s after the failure
        {"attempt": 2, "end": 172.0, "seconds": {"checkpoint": 2.0}},
        {"command": True, "end": 200.0},
        step(3, 4, 215.0, applied=False, step=10.0),
        step(3, 5, 225.0, step=8.0, evaluation=2.0),
    ]
    seconds = seconds_by_cause(lines, attempts)
    assert {cause: value for cause, value in seconds.items() if value} == {
        "training": 9.0 + 9.5 + 10.0 + 8.0,
        "start": 10.0 + 5.0,
        "data": 1.5,
        "evaluation": 2.0,
        "checkpoint": 2.0,
        "restart": 15.0,
        "repeated steps": 15.0,
        "skipped steps": 10.0,
        "between commands": 28.0,
    }
    assert sum(seconds.values()) == 125.0
    assert goodput(seconds) == pytest.approx(36.5 / 125)
    assert goodput(seconds_by_cause([], [])) == 0.0


@given(st.lists(st.integers(0, 9), max_size=12))
def test_a_step_belongs_to_the_last_attempt_that_began_before_it(begins):
    attempts = [Attempt(number, step, 0, 1, {}) for number, step in enumerate(begins, 1)]
    owners = Owners(attempts)
    for step in range(1, 12):
        before = [attempt for attempt in attempts if attempt.step < step]
        assert owners.of(step) == (before[-1] if before else None)
