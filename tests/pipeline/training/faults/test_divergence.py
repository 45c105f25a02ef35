"""Spikes and bad steps are told from ordinary noise."""

import math
import pickle

import numpy as np
import pytest

from pipeline.settings.faults import FaultSettings
from pipeline.training.faults.divergence import Diverged, DivergenceGuard, diverged


def noisy_curve(steps, seed=0):
    """A falling loss with 3 % of noise."""
    noise = np.random.default_rng(seed).normal(1, 0.03, steps)
    return (4 + 5 * np.exp(-np.arange(steps) / 30)) * noise


@pytest.mark.parametrize("seed", range(5))
def test_an_ordinary_curve_has_no_spike(seed):
    guard = DivergenceGuard(FaultSettings())
    for step, loss in enumerate(noisy_curve(400, seed)):
        assert guard.after_interval(step, float(loss)) == ""


def test_a_spike_is_found_at_once_and_does_not_become_the_recent_past():
    guard = DivergenceGuard(FaultSettings(spike="skip"))
    for step, loss in enumerate(noisy_curve(100)):
        guard.after_interval(step, float(loss))
    for step in (100, 101, 102):
        assert f"step {step}: the loss jumped from 4." in guard.after_interval(step, 1.7e6)
    assert guard.after_interval(103, 4.3) == ""
    assert guard.after_interval(104, math.nan) == ""  # all its steps were skipped

    guard = DivergenceGuard(FaultSettings(spike="stop"))
    for step, loss in enumerate(noisy_curve(100)):
        guard.after_interval(step, float(loss))
    with pytest.raises(Diverged, match=r"to 9; lower optim\.lr"):
        guard.after_interval(100, 9.0)


def test_a_phase_with_harder_samples_is_no_spike():
    guard = DivergenceGuard(FaultSettings(), [4.0, 4.1] * 9)
    for step in range(10):
        assert guard.after_interval(step, 9.0, phase=1) == ""
    with pytest.raises(Diverged, match=r"the loss jumped from 9\.000"):
        guard.after_interval(10, 20.0, phase=1)


def test_bad_steps_count_only_in_a_row():
    guard = DivergenceGuard(FaultSettings(bad_steps=3))
    for step, bad in enumerate([True, True, False, True, True]):
        guard.after_step(step, bad)
    with pytest.raises(Diverged, match="gradients of 3 steps in a row are not finite"):
        guard.after_step(5, True)


def test_the_error_crosses_processes_with_its_step():
    error = pickle.loads(pickle.dumps(diverged(7, "the loss jumped")))
    assert (error.step, str(error)[:7]) == (7, "step 7:")


def test_the_recent_losses_of_a_resumed_run_count():
    recent = [4.0, 4.1, float("nan"), 3.9, 4.0, 4.1, 4.0, 3.9, 4.0]
    with pytest.raises(Diverged, match="the loss jumped from 4"):
        DivergenceGuard(FaultSettings(), recent).after_interval(100, 9.0)
