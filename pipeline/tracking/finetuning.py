"""What MLflow records of a fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.settings.config import Config
from pipeline.tracking.metric_sender import MetricSender
from pipeline.tracking.runs import finish_run, tracking_uri


def record_finetuning(
    config: Config,
    run_id: str,
    epochs: Sequence[Mapping[str, float]],
    test: Mapping[str, float],
    results: Path,
) -> None:
    """Send the scores of a finished fine-tuning to its run, attach the results file, end the run.

    Args:
        config: the run's settings.
        run_id: MLflow's.
        epochs: for each epoch its training `loss` and its scores on dev.
        test: scores on the test examples.
        results: file to attach.
    """
    sender = MetricSender(tracking_uri(config), run_id, system_metrics=False)
    for epoch, values in enumerate(epochs, 1):
        named = {name if name == "loss" else f"dev_{name}": values[name] for name in values}
        sender.log(epoch, named)
    sender.log(len(epochs), {f"test_{name}": value for name, value in test.items()})
    sender.close()
    finish_run(config, run_id, artifacts=(results,))
