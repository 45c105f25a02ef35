"""What MLflow keeps of a comparison."""

import mlflow

from pipeline.comparing.comparison import Cell, Comparison, Row, Subject
from pipeline.comparing.recording import record
from pipeline.finetuning.trials.search import Score
from pipeline.tracking import runs as tracking
from pipeline.tracking.store import tracking_uri
from tests.pipeline.comparing.given import config


def test_each_checkpoint_is_a_nested_run_and_tokens_are_steps(tmp_path):
    subjects = [Subject("a", "x", False, 2, 128, 100.0), Subject("b", "y", False, 2, 128, 50.0)]
    cells = {
        "a": Cell(Score(0.5, 0.1), "dev", 1e-3, 8, 2, {}, 1.0),
        "b": Cell(Score(0.25, None), "dev", 1e-3, 8, 1, {}, 1.0),
    }
    result = Comparison(subjects, [Row("t", "f1", {}, 0.0, "", cells, {})], {}, [], 2.0)
    chosen, file = config(tmp_path), tmp_path / "report.md"
    file.touch()
    run_id = tracking.start_run(chosen, "compare", {})
    record(chosen, run_id, result, [file])
    client = mlflow.MlflowClient(tracking_uri(chosen))
    curve = client.get_metric_history(run_id, "curve/t")
    assert [(point.step, point.value) for point in curve] == [(50, 0.25), (100, 0.5)]
    assert [each.path for each in client.list_artifacts(run_id)] == ["report.md"]
    nested = client.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{run_id}'")
    assert {run.info.run_name: run.data.metrics for run in nested} == {
        "a": {"t/f1": 0.5, "t/deviation": 0.1},
        "b": {"t/f1": 0.25},
    }
