"""A finished run's record, with the loop started in this process."""

import shutil

import mlflow
import pytest

from pipeline import preflight as plans
from pipeline import stages as road
from pipeline.errors import ShardError
from pipeline.paths import RunPaths
from pipeline.tracking import runs as tracking
from pipeline.training.launch import ray_train as driver
from pipeline.training.launch import torchrun as alone
from tests.pipeline.training.test_loop import settings


def test_a_run_leaves_figures_and_pictures_in_mlflow(tmp_path, monkeypatch):
    config = settings(tmp_path, "pictures", "train.steps=6")
    monkeypatch.setattr(driver, "fit", lambda config, tracking, _: alone.fit(config, tracking))
    run_id = road.pretrain(config, print)
    client = mlflow.MlflowClient(tracking.tracking_uri(config))
    files = {item.path for item in client.list_artifacts(run_id)}
    assert files == {"metrics.jsonl", "loss_curve.png", "trust_ratios.png"}
    figures = client.get_run(run_id).data.metrics
    assert {
        "heldout_word_accuracy",
        "heldout_word_accuracy_2",
        "tflops_per_worker",
        "time/communication",
        "trust_ratio/layer_01",
    } <= figures.keys()


def test_a_run_without_held_out_text_has_a_summary(tmp_path, monkeypatch):
    config = settings(tmp_path, "alone", "train.steps=2")
    shutil.rmtree(RunPaths.of(config).heldout)
    monkeypatch.setattr(driver, "fit", lambda config, tracking, _: alone.fit(config, tracking))
    summary = road._summary(config, road.pretrain(config, print))
    assert summary["heldout_mlm_loss"] is None
    assert summary["tokens_per_second"] > 0


@pytest.mark.parametrize("place", ["nowhere", "s3://bucket/heldout"])
def test_held_out_shards_that_are_not_there_are_told(tmp_path, place):
    config = settings(tmp_path, "misspelt")
    train = config.train.model_copy(update={"eval_shards": place})
    config = config.model_copy(update={"train": train})
    with pytest.raises(ShardError, match=r"nowhere|train\.eval_shards"):
        plans.check_data(config)
