"""Exports in the MLflow model registry."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException
from transformers import AutoTokenizer

from model import NezhaForMaskedLM
from pipeline.errors import TrackingError
from pipeline.settings.config import Config
from pipeline.tracking.runs import start_run, tracking_uri

HEAD = NezhaForMaskedLM
"""The network that MLflow's loaders make: it answers `fill-mask`."""


def register_export(config: Config, folder: Path, run_id: str) -> str:
    """Log an export as the run's model, register it, and move the alias to the new version.

    A store that does not know the run gets a run of its own for it, tagged with `run_id`. The state
    of the run stays what it is.

    Returns:
        the model URI: `models:/NAME@ALIAS`, or `models:/ID` where nothing is registered.

    Raises:
        TrackingError: the store cannot be reached or refuses it.
    """
    name, alias = config.tracking.registered_model, config.tracking.alias
    client = mlflow.MlflowClient(tracking_uri(config))
    mlflow.set_tracking_uri(tracking_uri(config))
    try:
        with _run_of(client, config, run_id) as run_id, _loadable(folder) as loadable:
            info = mlflow.transformers.log_model(
                {
                    "model": HEAD.from_pretrained(folder),
                    "tokenizer": AutoTokenizer.from_pretrained(folder),
                },
                name="model",
                task="fill-mask",
                pip_requirements=["torch", "transformers"],
            )
            # Add the whole export: its code is needed to load the weights elsewhere.
            client.log_model_artifacts(info.model_id, str(loadable), "model")
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


@contextlib.contextmanager
def _run_of(client: mlflow.MlflowClient, config: Config, run_id: str) -> Iterator[str]:
    """Make a run the active one, whose status is afterwards what it was before."""
    try:
        status = client.get_run(run_id).info.status
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        tags = {"stage": "export", "pretraining_run": run_id}
        run_id, status = start_run(config, config.run.name, tags), "FINISHED"
    try:
        with mlflow.start_run(run_id=run_id):
            yield run_id
    finally:
        if status == "RUNNING":
            client.update_run(run_id, status=status)
        else:
            client.set_terminated(run_id, status)


@contextlib.contextmanager
def _loadable(folder: Path) -> Iterator[Path]:
    """A copy of an export whose config.json names the class that MLflow has logged.

    MLflow's loaders make the class that config.json names first, and an export names the one with
    both pretraining heads, which no pipeline can use. The weights stay those of both heads.
    """
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(shutil.copytree(folder, Path(temporary, "model")))
        config = json.loads((copy / "config.json").read_text("utf-8"))
        config["architectures"] = [HEAD.__name__]
        (copy / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
        yield copy
