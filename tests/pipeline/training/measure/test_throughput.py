"""Means and speed between logged steps."""

import time

import pytest
import torch

from pipeline.training.measure.flops import Counts, Speed
from pipeline.training.measure.throughput import Interval
from tests.pipeline.training.measure.test_flops import SMALL

CPU = torch.device("cpu")
SUMS = torch.tensor([20.0, 5.0, 10.0, 0.0, 0.0, 0.0])
COUNTS = torch.tensor(Counts(masked=10, pairs=0, tokens=60, squares=0), dtype=torch.float64)


@pytest.fixture
def interval(monkeypatch):
    """An interval for which every step takes one second."""
    now = iter(range(100))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(now)))
    return Interval(CPU, Speed(SMALL, 1, None))


def test_profiled_steps_count_for_the_loss_and_not_for_the_speed(interval):
    interval.add(SUMS, COUNTS, profiled=False)
    interval.add(3 * SUMS, COUNTS, profiled=True)
    values = interval.close(remaining=8)
    assert values["mlm_loss"] == pytest.approx(2.0)
    assert values["tokens_per_second"] == pytest.approx(60.0)
    assert (values["step_seconds"], values["seconds_left"]) == (1.0, 8.0)


def test_an_interval_of_profiled_steps_has_no_speed(interval):
    interval.add(SUMS, COUNTS, profiled=True)
    assert interval.close(remaining=1).keys() == {"mlm_loss", "mlm_accuracy", "loss"}
