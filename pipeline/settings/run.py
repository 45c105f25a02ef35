"""Settings of a run as a whole: its folder, and where MLflow records it."""

import re
from typing import Annotated

from pydantic import Field, field_serializer, field_validator

from pipeline.passwords import without_password
from pipeline.settings.base import LocalPath, Location, Number, Positive, Settings


class RunSettings(Settings):
    """Where a run is stored and what makes it repeatable."""

    name: str = "nezha"
    """Name of the run: its folder, its Ray Train name and its MLflow run name."""
    storage: Location = "runs"
    """Folder that holds the run folder, on the disk of the command's node or on a shared one; or a
    URL (s3://, gs://)."""
    scratch: LocalPath = ""
    """Folder to work in if `run.storage` is a URL. Nodes that cannot read `run.storage` keep their
    copies there too. Empty: a folder in the temporary folder."""
    seed: Annotated[int, Number, Field(ge=0, lt=2**32)] = 42
    """Seed of pairs, masks, order, initial weights and dropout."""

    @field_validator("storage")
    @classmethod
    def _check_storage(cls, storage: str) -> str:
        if not storage:  # as from a variable that a script has not set
            raise ValueError("must not be empty; `.` is this folder")
        return storage

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        # `.` and `..` would put the run's files into the storage folder itself or above it.
        if name in (".", "..") or not re.fullmatch(r"[A-Za-z0-9._-]+", name):
            raise ValueError(
                "must consist of letters (a-z, A-Z), digits, `.`, `_` and `-`, and not be `.` or "
                "`..`"
            )
        return name


class EvaluateSettings(Settings):
    """What `jobs.evaluate` scores."""

    follow: bool = False
    """Score each checkpoint of the run, oldest first, and wait for those that its training still
    writes, up to `train.steps`. MLflow shows the scores in the training's run, as `evaluated/…`."""


class PromoteSettings(Settings):
    """A version of a registered model that becomes `champion`."""

    model: str = "nezha"
    """Name in the model registry; that of a head is `nezha-NAME`."""
    version: Positive | str = "candidate"
    """Number or alias of the version."""


class TrackingSettings(Settings):
    """MLflow."""

    uri: str = ""
    """Tracking server (http://…) or database (sqlite:///…); empty: SQLite in `run.storage`."""
    experiment: str = "nezha"
    """MLflow experiment."""
    parent: str = ""
    """MLflow run that this one is nested in; empty: none."""
    registered_model: str = "nezha"
    """Name in the model registry; empty: nothing is registered."""
    alias: str = "candidate"
    """Registry alias of every new version; `champion` moves only to a better one (jobs.promote)."""

    @field_serializer("uri", when_used="json")
    def _hide_password(self, uri: str) -> str:
        """Files that others read get the settings as JSON or YAML: an export, a checkpoint."""
        return without_password(uri)

    @field_validator("experiment")
    @classmethod
    def _check_experiment(cls, name: str) -> str:
        if not name.strip():
            raise ValueError("must not be empty")
        return name

    @field_validator("registered_model")
    @classmethod
    def _check_registered_model(cls, name: str) -> str:
        # MLflow would refuse it when the training is over.
        if name in (".", "..") or re.search("[/:'\"]", name) or (name and not name.strip()):
            raise ValueError("must be a name without `/`, `:` and quotes, and not be `.` or `..`")
        return name

    @field_validator("alias")
    @classmethod
    def _check_alias(cls, alias: str) -> str:
        if not re.fullmatch(r"[\w-]+", alias):
            raise ValueError("must consist of letters, digits, `_` and `-`")
        if re.fullmatch(r"latest|v\d+", alias, re.IGNORECASE):
            raise ValueError("must not be `latest` or `v1`, `v2` …: MLflow reserves these names")
        if alias == "champion":
            raise ValueError(
                "must not be `champion`, which moves to a new version only if that is better on "
                "the same held-out data; `python -m jobs.promote` moves it by hand"
            )
        return alias
