"""The time that a run will take."""

import pytest

from pipeline.settings.reading.config_file import load_config
from pipeline.stages.before import estimate

DEMO = "jobs/configs/demo.yaml"


def test_more_steps_take_more_time_and_work_elsewhere_is_not_estimated(monkeypatch):
    monkeypatch.setattr(estimate, "seconds_per_token", lambda config: 1e-4)
    monkeypatch.setattr(estimate, "usable_cpus", lambda: 2)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(estimate.torch.cuda, "is_available", lambda: False)
    short, long = (
        estimate.stage_seconds(load_config(DEMO, [f"train.steps={steps}"])) for steps in (100, 200)
    )
    config = load_config(DEMO, [])
    tokens = config.train.global_batch * config.corpus.sequence_length
    assert long["pretrain"] - short["pretrain"] == pytest.approx(
        100 * tokens * 1e-4 / 2 * estimate.STEP_OVERHEAD
    )
    assert long["heads"] == short["heads"] > 0
    assert "heads" not in estimate.stage_seconds(config.model_copy(update={"heads": {}}))
    monkeypatch.setenv("RAY_ADDRESS", "somewhere:6379")
    assert estimate.stage_seconds(config) == {}


def test_a_larger_network_is_measured_as_slower():
    small, large = (
        estimate.seconds_per_token(
            load_config(DEMO, [f"model={{size: tiny, num_hidden_layers: {layers}}}"])
        )
        for layers in (1, 8)
    )
    assert large > 1.5 * small


def test_a_network_that_does_not_fit_is_not_estimated(monkeypatch):
    def allocate(config):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9")

    monkeypatch.setattr(estimate, "seconds_per_token", allocate)
    monkeypatch.setattr(estimate.torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert estimate.stage_seconds(load_config(DEMO, [])) == {}
