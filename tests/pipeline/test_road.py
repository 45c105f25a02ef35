"""A finished run's record, with the loop started in this process."""

import mlflow

from pipeline import road, tracking
from pipeline.training import alone, driver
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
