"""The noise scale of gradients: exact sums, known noise, and a run that it does not change."""

import numpy as np
import pytest

from pipeline.feed.collate import first_samples
from pipeline.paths import RunPaths
from pipeline.settings.config import Config
from pipeline.training import batch_split, engine
from pipeline.training.measure import history, noise_scale
from pipeline.training.measure.noise_scale import Small, separate, squared_gradient_norm
from pipeline.training.objective import PretrainingObjective, to_device
from tests.pipeline.training.test_objective import CPU, batch, network
from tests.small_run import fit, losses, settings


def test_known_noise_is_found():
    """|G|² = 4, and gradients of one sample vary with variances that add up to 50."""
    random = np.random.default_rng(0)
    mean, samples = np.full(100, 0.2), 20_000

    def square(size):
        noise = random.normal(scale=np.sqrt(0.5 / size), size=(samples, 100))
        return float(((mean + noise) ** 2).sum(1).mean())

    noise, signal = separate(Small(square(4), 1 / 4), square(32), 1 / 32)
    assert noise == pytest.approx(50, rel=0.02)
    assert signal == pytest.approx(4, rel=0.05)
    assert separate(Small(9.0, 1 / 8), 4.0, 1 / 8) == (0.0, 0.0)


def test_the_first_samples_of_a_batch_are_those_of_a_smaller_one():
    whole = batch(6)
    found = first_samples(whole, 2)
    assert found.input_ids.tolist() == whole.input_ids[:2].tolist()
    rows = whole.masked_positions // whole.input_ids.shape[1]
    assert found.masked_labels.tolist() == whole.masked_labels[rows < 2].tolist()
    assert found.tokens == int(whole.attention_mask[:2].sum())
    assert len(found.samples) == len(found.next_sentence_label) == 2


@pytest.mark.parametrize("stage", [1, 2])
def test_a_run_shows_it_and_is_not_changed_by_it(tmp_path, stage, monkeypatch):
    """The text of the tests is random: its gradients are noise alone, which gives no scale."""
    taken = []

    def known(*given):
        taken.append(given)
        return 6.0, 3.0

    monkeypatch.setattr(noise_scale, "separate", known)
    runs = []
    for every in (0, 2):
        chosen = f"train.profile_every={every}", f"engine.zero_stage={stage}", "train.log_every=1"
        more = "model.hidden_dropout_prob=0.1", "train.eval_every=100", "train.checkpoint_every=100"
        runs.append(settings(tmp_path, f"every{every}", *chosen, *more))
        fit(runs[-1])
    assert losses(runs[0]) == losses(runs[1])
    plain, shown = (history.read(RunPaths.of(run).run) for run in runs)
    assert not any("gradient_noise_scale" in record for record in plain)
    values = [record.get("gradient_noise_scale") for record in shown if "loss" in record]
    assert values == [None] + [2.0] * 11
    assert [(small.inverse, inverse) for small, _, inverse in taken] == [(1 / 4, 1 / 16)] * 6
    assert all(0 < large < small.square for small, large, _ in taken)


def test_the_gradient_is_that_of_half_a_batch():
    """Of an engine's network, beside a plain backward pass."""
    given, net = batch(6), network()
    inputs = to_device(given, CPU)
    loss, _, _ = PretrainingObjective(net)(inputs, len(given.masked_labels), 6)
    loss.backward()
    expected = sum(float(each.grad.double().square().sum()) for each in net.parameters())
    engine.join()
    split = batch_split.Split(6, 1, 1)
    worker = engine.initialize(PretrainingObjective(network()), Config(), split, "fp32")
    assert squared_gradient_norm(worker, given, (0, 1)) == pytest.approx(expected, rel=1e-5)
    assert all(each.grad is None for each in worker.module.parameters())
