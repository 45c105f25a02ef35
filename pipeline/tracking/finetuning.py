"""What MLflow records of a fine-tuning."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Param
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from pipeline.settings.config import Config
from pipeline.tracking.metric_names import accepted, point
from pipeline.tracking.metric_sender import MetricSender
from pipeline.tracking.runs import finish_run
from pipeline.tracking.store import optional, tracking_uri


def record_finetuning(
    config: Config,
    run_id: str,
    epochs: Sequence[Mapping[str, float]],
    scores: Mapping[str, Mapping[str, float]],
    trials: Sequence[Mapping[str, Any]] = (),
    files: Iterable[Path] = (),
) -> None:
    """Send the scores of a finished fine-tuning to its run, attach files, end the run.

    Each trial becomes a nested run, which failed if the trial has an `error`.

    Args:
        run_id: MLflow's.
        epochs: for each epoch of the kept head its training `loss` and its scores on dev.
        scores: other scores by group (`test`, `score` …) and name.
        trials: `lr`, `batch`, `seed`, `dev`, `test` and `error` of each.
        files: what to attach.
    """
    sender = MetricSender(tracking_uri(config), run_id, system_metrics=False)
    for epoch, values in enumerate(epochs, 1):
        named = {f"{'train' if name == 'loss' else 'dev'}/{name}": values[name] for name in values}
        sender.log(epoch, named)
    grouped = {
        f"{group}/{name}": value for group in scores for name, value in scores[group].items()
    }
    sender.log(len(epochs), grouped)
    sender.close()
    with optional(run_id, "store its trials"):
        for trial in trials:
            _record_trial(config, run_id, trial)
    finish_run(config, run_id, artifacts=files)


def _record_trial(config: Config, parent: str, trial: Mapping[str, Any]) -> None:
    shaped = {name: trial[name] for name in ("lr", "batch", "seed")}
    scores = {
        f"{name}/{key}": value for name in ("dev", "test") for key, value in trial[name].items()
    }
    name = " ".join(f"{key} {value:g}" for key, value in shaped.items())
    record_nested(config, parent, name, shaped, scores, error=trial["error"])


def record_nested(
    config: Config,
    parent: str,
    name: str,
    parameters: Mapping[str, Any],
    metrics: Mapping[str, float],
    error: str = "",
) -> None:
    """A finished run under a parent run; with an error it has failed."""
    client = mlflow.MlflowClient(tracking_uri(config))
    tags = {MLFLOW_PARENT_RUN_ID: parent} | ({"error": error[:5000]} if error else {})
    run = client.create_run(client.get_run(parent).info.experiment_id, run_name=name, tags=tags)
    client.log_batch(
        run.info.run_id,
        metrics=[point(accepted(key), score) for key, score in metrics.items()],
        params=[Param(key, str(value)) for key, value in parameters.items()],
    )
    client.set_terminated(run.info.run_id, "FAILED" if error else "FINISHED")
