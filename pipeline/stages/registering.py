"""Exports and heads in the registry, with their origin and their scores."""

import tempfile
from pathlib import Path
from typing import Any

from pipeline.errors import ExportError
from pipeline.export.lineage import packages, read_lineage
from pipeline.finetuning.examples.data import hash_file
from pipeline.finetuning.prediction.carried_code import write_model
from pipeline.finetuning.prediction.head_folder import read_results
from pipeline.finetuning.tasks import TASKS
from pipeline.settings.config import Config
from pipeline.tracking import registry
from pipeline.tracking.datasets import DataUsed, log_data
from pipeline.tracking.store import shown_uri
from pipeline.tracking.versions import ComparedScore, Registered, address_of, has_alias

SERVED = "pipeline.finetuning.prediction.served"
"""The module whose `ServedHead` is what MLflow serves."""


def place_of(config: Config) -> dict[str, str]:
    """Where the settings say that an export or a head is registered."""
    chosen = config.tracking
    names = {"name": chosen.registered_model, "alias": chosen.alias}
    return {"store": shown_uri(config), **names}


def register_export(config: Config, folder: Path, run_id: str) -> Registered:
    """Register an export of this project with its lineage.

    Raises:
        TrackingError: the store cannot be reached or refuses it.
    """
    lineage = read_lineage(folder)
    loss, data = (lineage["heldout"] or {}).get("mlm_loss"), lineage.get("heldout_set")
    judged = None
    if loss is not None and data:
        judged = ComparedScore("heldout_mlm_loss", loss, data, lower_is_better=True)
    tags = {
        "pretraining_run": run_id,
        "corpus_fingerprint": lineage["fingerprint"],
        "precision": lineage.get("precision"),
        "workers": lineage.get("workers"),
        "step": lineage["step"],
    }
    return registry.register_export(config, folder, run_id, tags, judged)


def known_address(config: Config, folder: Path, run_id: str) -> str | None:
    """Where an export is registered under the name that the settings give; None if it is not.

    Raises:
        TrackingError: the store cannot be reached.
    """
    return address_of(config, run_id, read_lineage(folder)["step"])


def register_head(config: Config, folder: Path, run_id: str) -> Registered:
    """Register a head, and log its files as the data sets of its run.

    Raises:
        TrackingError: the store cannot be reached or refuses it.
    """
    results = read_results(folder)
    task = TASKS[results["task"]]
    lineage = _lineage_of(results["export"])
    used = {key: results["data"][key] for key in ("train", "dev", "test") if results["data"][key]}
    data = [DataUsed(key, path, hash_file(path)) for key, path in used.items()]
    log_data(config, run_id, data)
    scores, on = (results["test"], "test") if results["test"] else (results["dev"], "dev")
    judged = None
    if task.metric in scores:
        examples = results["judged_on"][on]
        judged = ComparedScore(
            f"{on}_{task.metric}", scores[task.metric], examples, lower_is_better=False
        )
    tags = {
        "task": task.name,
        "from_scratch": results["from_scratch"] or None,
        "export": results["export"],
        "pretraining_run": lineage.get("mlflow_run"),
        "corpus_fingerprint": lineage.get("fingerprint"),
    }
    with tempfile.TemporaryDirectory() as temporary:
        script, package = write_model(SERVED, Path(temporary))
        served = registry.Served(
            script=script,
            package=package,
            example=task.sample,
            inputs=task.served,
            answers=task.answer_form,
            packages=packages(folder),
        )
        return registry.register_head(config, folder, run_id, served, tags, judged)


def head_is_registered(config: Config, folder: Path) -> bool:
    """Whether the name of a head has a version under the alias; true if none are registered.

    Raises:
        TrackingError: the store fails, so that it is not known.
    """
    base = config.tracking.registered_model
    return not base or has_alias(config, f"{base}-{folder.name}", config.tracking.alias)


def _lineage_of(export: str) -> dict[str, Any]:
    """What an export was made from; nothing for a folder of other origin."""
    try:
        return read_lineage(Path(export))
    except ExportError:
        return {}
