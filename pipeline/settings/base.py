"""What all setting groups share: the base class and the types of common values."""

import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from pipeline.files.urls import is_url
from pipeline.passwords import without_password


class Settings(BaseModel):
    """Base of all groups: immutable; unknown names are errors; docstrings are the help texts.

    Numbers are finite: no schedule, timer or limit works with infinity.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
    )


def _refuse_truth_value(value: Any) -> Any:
    """YAML reads `yes` and `on` as true, and pydantic would read true as 1."""
    if isinstance(value, bool):
        raise PydanticCustomError("truth_value", "must be a number")
    return value


def _refuse_other_units(value: Any) -> Any:
    """Text that `Config` has not turned into steps."""
    if isinstance(value, str):
        raise ValueError("must be a number of steps, or `N tokens` such as `2e9 tokens`")
    return value


def expanded(path: str) -> str:
    """A path as a shell would read it: `~` is the home folder, `$NAME` an environment variable.

    No shell reads files of settings, nor the `~` of `a.b=~/c`.

    Raises:
        ValueError: a variable is not set, or a URL is cut; both would name a new folder. Or a URL
            has a password.
    """
    path = os.path.expanduser(os.path.expandvars(path))
    if unset := re.search(r"\$\{.*?\}|(?<![^/])\$[A-Za-z_]\w*(?![^/])", path):
        raise ValueError(f"names {unset[0]}, and there is no such environment variable")
    if re.match(r"[a-z][a-z0-9]+:/(?!/)", path) and not is_registered(path):
        raise ValueError("is no path; a URL has `://` behind its scheme")
    if without_password(path) != path:
        raise ValueError(
            "has a password or key in it, which corpora, checkpoints, exports and MLflow would "
            "show; give it in the environment (of S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"
        )
    return path


def absolute(path: str) -> str:
    """Make a local path absolute: workers have other working directories than the driver."""
    path = expanded(path.removeprefix("file://"))
    return path if not path or is_url(path) else str(Path(path).absolute())


def _local(path: str) -> str:
    if is_url(path):
        raise ValueError("must be a local path, because it is a folder of copies on each node")
    return path


def is_registered(name: str) -> bool:
    """Whether a name is that of a version in MLflow's registry, and no path."""
    return name.startswith("models:/")


def absolute_unless_registered(name: str) -> str:
    """A path made absolute as by `absolute`, or the name of a registered version."""
    return name if is_registered(name) else absolute(name)


def check_folder_name(name: str) -> str:
    """Refuse a name whose folder would be another one than a new one in its place."""
    if name in (".", "..") or re.search(r"[/\\:\0]", name):  # MLflow's names hold no `:`
        raise ValueError("must be the name of a folder, without `/` and `:`, and not `.` or `..`")
    return name


Number = BeforeValidator(_refuse_truth_value)
Share = Annotated[float, Number, Field(ge=0.0, le=1.0)]
Decay = Annotated[float, Number, Field(ge=0.0, lt=1.0)]
AboveZero = Annotated[float, Number, Field(gt=0.0)]
NotNegative = Annotated[float, Number, Field(ge=0.0)]
Seconds = Annotated[AboveZero, Field(le=1e9)]
"""More than 30 years are too many for a timer."""
Positive = Annotated[int, Number, Field(ge=1)]
Count = Annotated[int, Number, Field(ge=0)]
Length = Annotated[Positive, BeforeValidator(_refuse_other_units)]
"""Optimizer steps; a user may write `N tokens` instead, which `Config` turns into steps."""
SampleLength = Annotated[int, Number, Field(ge=16, le=65535)]
"""Tokens of a sample at most, with [CLS] and [SEP]."""
Location = Annotated[str, AfterValidator(absolute)]
"""A path or a URL. A relative path is relative to the driver's working directory."""
PathAsGiven = Annotated[str, AfterValidator(expanded)]
"""A path, a URL or a name, in which `~` and `$NAME` are replaced, as in all paths."""
LocalPath = Annotated[Location, AfterValidator(_local)]
"""A path, and no URL."""
Model = Annotated[str, AfterValidator(absolute_unless_registered)]
"""A folder, its URL, or a registered version (`models:/NAME/2`, `models:/NAME@ALIAS`)."""
FolderName = Annotated[str, AfterValidator(check_folder_name)]
