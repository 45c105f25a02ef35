"""Exports and heads in the MLflow model registry.

Each is a model that MLflow loads and serves without this repository. A new version becomes
`candidate`; `champion` moves to it only if it is better on the same data.
"""

import contextlib
import importlib.metadata
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.store.artifact.utils.models import get_model_name_and_version
from mlflow.types import schema as types
from transformers import AutoTokenizer

from model import NezhaForMaskedLM
from pipeline.errors import ExportError
from pipeline.files.hashing import short_hash
from pipeline.files.whole_folder import whole_folder
from pipeline.settings.config import Config
from pipeline.tracking.metric_names import accepted
from pipeline.tracking.runs import is_active, start_run
from pipeline.tracking.store import moving_files, required, tracking_uri
from pipeline.tracking.versions import (
    ComparedScore,
    Logged,
    Registered,
    register_version,
    version_of,
)

HEAD = NezhaForMaskedLM
"""The network that MLflow's loaders make of an export: it answers `fill-mask`."""
NEEDED = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "mlflow")
"""Packages that an export or a head needs, in the versions that it was made with."""
HEAD_NEEDED = ("xxhash",)
"""Packages that the code of a head needs, and that none of those brings."""
SCALARS = {
    str: types.DataType.string,
    int: types.DataType.long,
    float: types.DataType.double,
}


class Served(NamedTuple):
    """What MLflow needs to serve a head, beside the folder of the head."""

    script: Path
    """Gives MLflow the model."""
    package: Path
    """Folder of the code that the script imports, beside it."""
    example: Mapping[str, Any]
    """An input, for the model's page."""
    inputs: Mapping[str, Any]
    """Forms of the values of an input, by key, as `Task.served`."""
    answers: Mapping[str, Any]
    """Those of an answer, as `Task.answer_form`."""
    packages: Sequence[str]
    """Packages that the head needs besides `NEEDED` and `HEAD_NEEDED`."""


def register_export(
    config: Config, folder: Path, run_id: str, tags: Mapping[str, Any], judged: ComparedScore | None
) -> Registered:
    """Log an export as the run's model, register it, and move the aliases.

    A store that does not know the run gets a run of its own for it, tagged with `run_id`. The state
    of the run stays what it is.

    Args:
        tags: facts for the model version; those that are None are left out.
        judged: by what the export may become `champion`; None if nothing was measured.

    Raises:
        TrackingError: the store cannot be reached or refuses it.
    """
    with _store(config, folder) as client:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        with _run_of(client, config, run_id) as run_id, _loadable(folder) as loadable:
            info = mlflow.transformers.log_model(
                {"model": HEAD.from_pretrained(folder), "tokenizer": tokenizer},
                name="model",
                task="fill-mask",
                input_example=[f"北京是中国的首{tokenizer.mask_token}。"],
                signature=ModelSignature(_schema({"": str}), _schema({"": str})),
                pip_requirements=requirements(),
            )
            # Add the whole export: its code is needed to load the weights elsewhere.
            client.log_model_artifacts(info.model_id, str(loadable), "model")
        facts = {"stage": "export", **tags}
        name, logged = config.tracking.registered_model, _logged(client, info, run_id)
        return register_version(client, config, name, logged, facts, judged)


def register_head(
    config: Config,
    folder: Path,
    run_id: str,
    served: Served,
    tags: Mapping[str, Any],
    judged: ComparedScore | None,
) -> Registered:
    """Log the folder of a head as the model of its run, register it, and move the aliases.

    The version and that of the export which the head began from name each other in their tags.

    Args:
        tags: facts for the model version; `pretraining_run` names the run of its export.
        judged: by what the head may become `champion`.

    Raises:
        TrackingError: the store cannot be reached or refuses it.
    """
    base = config.tracking.registered_model
    name = f"{base}-{folder.name}" if base else ""
    with _store(config, folder) as client:
        origin = version_of(client, base, tags.get("pretraining_run"))
        if origin:
            tags = {**tags, "export_version": f"{base}/{origin}"}
        with _run_of(client, config, run_id) as run_id, _importable(served.package.parent):
            info = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(served.script),
                artifacts={"head": str(folder)},
                code_paths=[str(served.package)],
                input_example=pd.DataFrame([served.example]),
                signature=ModelSignature(_schema(served.inputs), _schema(served.answers)),
                pip_requirements=requirements((*HEAD_NEEDED, *served.packages)),
            )
        facts = {"stage": "head", **tags}
        logged = _logged(client, info, run_id)
        made = register_version(client, config, name, logged, facts, judged)
        if origin and name:
            version = client.get_model_version_by_alias(name, config.tracking.alias).version
            tag = accepted(f"head.{folder.name}")
            client.set_model_version_tag(base, origin, tag, f"{name}/{version}")
    return made


def requirements(packages: tuple[str, ...] = ()) -> list[str]:
    """Pins of the versions in use, without the name of a build, such as `+cpu`."""
    return [
        f"{name}=={importlib.metadata.version(name).partition('+')[0]}"
        for name in (*NEEDED, *packages)
    ]


@contextlib.contextmanager
def _store(config: Config, folder: Path) -> Iterator[mlflow.MlflowClient]:
    """A client of the store, whose refusals become a TrackingError."""
    uri = tracking_uri(config)
    mlflow.set_tracking_uri(uri)
    advice = "; the folder itself is complete: run the same command again when the store is back"
    with required(f"{folder} could not be registered in {uri}", advice), moving_files():
        yield mlflow.MlflowClient(uri)


def _logged(client: mlflow.MlflowClient, info: Any, run_id: str) -> Logged:
    """The model that MLflow has just logged, by what it says of it."""
    place = client.get_logged_model(info.model_id).artifact_location
    return Logged(place, run_id, info.model_id)


def numbered(name: str, store: str) -> str:
    """The name of a registered version by its number, which an alias may leave (`models:/A@B`).

    Raises:
        TrackingError: the store does not have it.
    """
    with required(f"{name}: {store} does not have it"):
        found = get_model_name_and_version(mlflow.MlflowClient(store), name)
    return "/".join(["models:", *map(str, found)])


def fetch_registered(name: str, store: str, kept_in: Path) -> Path:
    """The Hugging Face folder of a registered version (`models:/…`), in a folder in `kept_in`.

    Raises:
        ExportError: the version holds no such folder.
        TrackingError: the store does not have it.
    """
    target = kept_in / "registered" / short_hash(name, 12)
    with whole_folder(target) as folder:
        with required(f"{name}: {store} does not have it"), moving_files():
            mlflow.set_tracking_uri(store)  # where MLflow looks for versions, whatever it is told
            got = mlflow.artifacts.download_artifacts(artifact_uri=name, dst_path=str(folder))
        found = [path.parent for path in Path(got).rglob("config.json")]
        usable = [path for path in found if list(path.glob("*.safetensors"))]
        if not usable:
            raise ExportError(f"{name}: the registered model holds no Hugging Face folder")
        inside = min(usable, key=lambda path: len(path.parts)).relative_to(folder)
    return target / inside


def _schema(forms: Mapping[str, Any]) -> types.Schema:
    """MLflow's schema of columns with these forms; a column without a name stands alone."""
    return types.Schema([types.ColSpec(_type(form), name or None) for name, form in forms.items()])


def _type(form: Any) -> Any:
    if isinstance(form, list):
        return types.Array(_type(form[0]))
    if isinstance(form, dict):
        if str in form:
            return types.Map(_type(form[str]))
        return types.Object([types.Property(key, _type(each)) for key, each in form.items()])
    return SCALARS[form]


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let modules in a folder be imported while the block runs: MLflow loads a model to log it."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


@contextlib.contextmanager
def _run_of(client: mlflow.MlflowClient, config: Config, run_id: str) -> Iterator[str]:
    """Make a run MLflow's active one while the block runs, and set its status back afterwards."""
    if is_active(client, run_id):
        status = client.get_run(run_id).info.status
    else:
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
