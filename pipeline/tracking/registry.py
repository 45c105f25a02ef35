"""Exports in the MLflow model registry."""

from __future__ import annotations

import contextlib
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException
from transformers import AutoTokenizer

from model import NezhaForMaskedLM
from pipeline.errors import TrackingError
from pipeline.settings.config import Config
from pipeline.tracking.runs import tracking_uri


def register_export(config: Config, folder: Path, run_id: str) -> str:
    """Log an export as the run's model, register it, and move the alias to the new version.

    Returns:
        the model URI: `models:/NAME@ALIAS`, or `models:/ID` where nothing is registered.

    Raises:
        TrackingError: the store cannot be reached or refuses it.
    """
    name, alias = config.tracking.registered_model, config.tracking.alias
    client = mlflow.MlflowClient(tracking_uri(config))
    mlflow.set_tracking_uri(tracking_uri(config))
    try:
        with mlflow.start_run(run_id=run_id):
            info = mlflow.transformers.log_model(
                {
                    "model": NezhaForMaskedLM.from_pretrained(folder),
                    "tokenizer": AutoTokenizer.from_pretrained(folder),
                },
                name="model",
                task="fill-mask",
                pip_requirements=["torch", "transformers"],
            )
        # Add the whole export: its code is needed to load the weights elsewhere.
        client.log_model_artifacts(info.model_id, str(folder), "model")
        if not name:
            return info.model_uri
        with contextlib.suppress(MlflowException):
            client.create_registered_model(name)
        model = client.get_logged_model(info.model_id)
        version = client.create_model_version(
            name, model.artifact_location, run_id, model_id=info.model_id
        ).version
        client.set_registered_model_alias(name, alias, version)
    except (MlflowException, OSError) as error:
        raise TrackingError(
            f"the export in {folder} could not be registered in {tracking_uri(config)}: {error}; "
            "the folder itself is complete: run jobs.export again when the store is back"
        ) from error
    return f"models:/{name}@{alias}"
