"""Versions in the model registry: what they are judged by, and which one is `champion`."""

import contextlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import mlflow
from mlflow.exceptions import MlflowException

from pipeline.settings.config import Config
from pipeline.tracking.commit import git_commit
from pipeline.tracking.store import existing_store, is_missing, required, tracking_uri

CHAMPION = "champion"


class Registered(NamedTuple):
    """A model in the store."""

    uri: str
    """`models:/NAME@ALIAS`, or `models:/ID` where nothing is registered."""
    note: str
    """What became of the alias `champion`; empty where nothing is registered."""


class Logged(NamedTuple):
    """A model that a run has logged."""

    place: str
    """Where its files are."""
    run_id: str | None = None
    model_id: str | None = None


class ComparedScore(NamedTuple):
    """A figure that versions of one model are compared by."""

    name: str
    """Of the figure, such as `mlm_loss`."""
    value: float
    data: str
    """Hash of the data that it was measured on; figures of other data are not comparable."""
    lower_is_better: bool

    def tags(self) -> dict[str, str]:
        return {"judged_by": self.name, "judged_value": repr(self.value), "judged_on": self.data}


def promote(config: Config, name: str, version: str) -> tuple[str, str]:
    """Make a version `champion`, whatever its figures are; returns it and the one before, if any.

    Args:
        name: of the registered model.
        version: a number, or an alias.

    Raises:
        TrackingError: there is no such version.
    """
    store = existing_store(config)
    client = mlflow.MlflowClient(store)
    with required(f"{store}: version {version} of {name} cannot become {CHAMPION}"):
        if not version.isdigit():
            version = client.get_model_version_by_alias(name, version).version
        client.get_model_version(name, version)  # an alias may name a version that is not there
        before = _by_alias(client, name, CHAMPION)
        client.set_registered_model_alias(name, CHAMPION, version)
    return version, before.version if before else ""


def register_version(
    client: mlflow.MlflowClient,
    config: Config,
    name: str,
    logged: Logged,
    tags: Mapping[str, Any],
    judged: ComparedScore | None,
) -> Registered:
    """Make a version of a logged model, with its tags and aliases.

    Args:
        name: of the registered model; empty: no version is made.
        tags: those that are None are left out.
    """
    if not name:
        return Registered(f"models:/{logged.model_id}", "")
    facts = {"git_commit": git_commit(), **tags} | (judged.tags() if judged else {})
    with contextlib.suppress(MlflowException):
        client.create_registered_model(name)
    known = {key: str(value) for key, value in facts.items() if value is not None}
    made = client.create_model_version(
        name, logged.place, logged.run_id, tags=known, model_id=logged.model_id
    )
    client.set_registered_model_alias(name, config.tracking.alias, made.version)
    refused = _why_not_champion(_by_alias(client, name, CHAMPION), judged)
    if refused is None:
        client.set_registered_model_alias(name, CHAMPION, made.version)
    label = f"{name}: version {made.version} is {config.tracking.alias}"
    note = f"{label} and {CHAMPION}" if refused is None else f"{label}, not {CHAMPION}: {refused}"
    return Registered(f"models:/{name}@{config.tracking.alias}", note)


def version_of(client: mlflow.MlflowClient, name: str, run_id: str | None) -> str | None:
    """The newest version that a pretraining run registered."""
    if not run_id or not name:
        return None
    found = _versions_of(client, name, run_id)
    return str(max(found)) if found else None


def address_of(config: Config, run_id: str, step: int) -> str | None:
    """The address of the version that a run registered of its export of a step.

    It has the alias where the alias still is on that version. None if there is no such version: it
    was deleted, or never made.

    Raises:
        TrackingError: the store cannot be reached.
    """
    if is_missing(config):
        return None
    store = tracking_uri(config)
    name, alias = config.tracking.registered_model, config.tracking.alias
    client = mlflow.MlflowClient(store)
    with required(store):
        found = _versions_of(client, name, run_id, step=str(step))
        held = _by_alias(client, name, alias) if found else None
    if held and int(held.version) in found:
        return f"models:/{name}@{alias}"
    return f"models:/{name}/{max(found)}" if found else None


def has_alias(config: Config, name: str, alias: str) -> bool:
    """Whether a registered model has a version under an alias.

    Raises:
        TrackingError: the store fails, so that it is not known.
    """
    if is_missing(config):
        return False
    store = tracking_uri(config)
    with required(store):
        return _by_alias(mlflow.MlflowClient(store), name, alias) is not None


def _versions_of(client: mlflow.MlflowClient, name: str, run_id: str, **tags: str) -> list[int]:
    """Versions that a pretraining run registered, and that have these tags."""
    return [
        int(each.version)
        for each in client.search_model_versions(f"name='{name}'")
        if run_id in (each.run_id, each.tags.get("pretraining_run"))
        and tags.items() <= each.tags.items()
    ]


def _why_not_champion(champion: Any | None, judged: ComparedScore | None) -> str | None:
    """Why a version does not take the alias from the one that has it; None if it does."""
    by_hand = "; `python -m jobs.promote` makes it so"
    if champion is None:
        return None
    if judged is None:
        return f"nothing was measured on held-out data{by_hand}"
    held = champion.tags
    if (held.get("judged_by"), held.get("judged_on")) != (judged.name, judged.data):
        return f"version {champion.version} was judged on other data{by_hand}"
    before = float(held["judged_value"])
    better = judged.value < before if judged.lower_is_better else judged.value > before
    if better:
        return None
    return (
        f"its {judged.name} is {judged.value:.4f}, and that of version {champion.version} is "
        f"{before:.4f}{by_hand}"
    )


def _by_alias(client: mlflow.MlflowClient, name: str, alias: str) -> Any | None:
    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
