"""A comparison in MLflow."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import mlflow

from pipeline.comparing.comparison import Comparison
from pipeline.settings.config import Config
from pipeline.tracking.finetuning import record_nested
from pipeline.tracking.metric_names import accepted, point
from pipeline.tracking.runs import finish_run
from pipeline.tracking.store import optional, tracking_uri


def record(config: Config, run_id: str, result: Comparison, files: Iterable[Path]) -> None:
    """Record a comparison in its run, with the files of its report, and end the run.

    Each checkpoint becomes a nested run. The steps of the metric `curve/TASK` are the tokens of
    pretraining.
    """
    client = mlflow.MlflowClient(tracking_uri(config))
    with optional(run_id, "store the comparison"):
        for subject in result.subjects:
            scores = _scores(result, subject.name)
            record_nested(config, run_id, subject.name, asdict(subject), scores)
        curves = [
            point(accepted(f"curve/{task}"), value, step=round(tokens))
            for task, curve in result.curve().items()
            for tokens, value in curve
        ]
        client.log_batch(run_id, metrics=curves)
    finish_run(config, run_id, artifacts=files)


def _scores(result: Comparison, name: str) -> dict[str, float]:
    """Mean and deviation of each task, of one checkpoint."""
    scores = {}
    for row in result.rows:
        if cell := row.cells.get(name):
            scores[f"{row.task}/{row.metric}"] = cell.score.mean
            if cell.score.deviation is not None:
                scores[f"{row.task}/deviation"] = cell.score.deviation
    return scores
