"""What a run reads, as MLflow shows it: the data sets of the run."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag

from pipeline.files.urls import is_url
from pipeline.settings.config import Config
from pipeline.tracking.store import required, tracking_uri


class DataUsed(NamedTuple):
    """A file or folder that a run reads."""

    use: str
    """`train`, `dev`, `test` or `heldout`."""
    path: str
    digest: str
    """SHA-256 of what it holds."""


def log_data(config: Config, run_id: str, used: Iterable[DataUsed]) -> None:
    """Log the data sets of a run.

    Raises:
        TrackingError: the store cannot be reached or refuses it.
    """
    inputs = [
        DatasetInput(
            Dataset(
                name=Path(each.path).name,
                digest=each.digest[:32],
                source_type="http" if is_url(each.path) else "local",
                source=json.dumps({"uri": each.path}),
            ),
            [InputTag("mlflow.data.context", each.use)],
        )
        for each in used
    ]
    uri = tracking_uri(config)
    with required(uri):
        mlflow.MlflowClient(uri).log_inputs(run_id, datasets=inputs)
