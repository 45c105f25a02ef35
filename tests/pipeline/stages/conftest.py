"""The stages with the training loop in this process instead of Ray workers."""

import pytest

from pipeline.paths import RunPaths
from pipeline.training import loop
from pipeline.training.launch import ray_train
from pipeline.training.measure import step_log
from tests import small_run


@pytest.fixture
def in_this_process(monkeypatch):
    def fit(config, tracking, progress):
        step_log.begin(RunPaths.of(config).run)
        return loop.train(config, small_run.alone(tracking=tracking))

    monkeypatch.setattr(ray_train, "fit", fit)


@pytest.fixture
def prepared_elsewhere(tmp_path):
    """Settings that name the shards and the vocabulary of another run, for runs without any."""
    (tmp_path / "elsewhere").mkdir()
    made = RunPaths.of(small_run.settings(tmp_path / "elsewhere", "made"))
    return (
        "train.steps=2",
        f"train.shards=[{made.shards}]",
        f"train.eval_shards={made.heldout}",
        f"corpus.vocab={made.vocab}",
    )
