"""MLflow runs: their start, resumption and end, and where they are shown."""

import logging
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import mlflow
from mlflow.entities import LifecycleStage, Param, Run
from mlflow.exceptions import MlflowException
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from pipeline.errors import Interrupted, TrackingError
from pipeline.files.file_lock import file_lock
from pipeline.files.storage import write_whole
from pipeline.files.urls import is_url
from pipeline.passwords import without_password
from pipeline.settings.config import Config, flatten
from pipeline.tracking.metric_names import accepted, grouped, point
from pipeline.tracking.store import (
    CHOSEN_ELSEWHERE,
    UNREACHABLE,
    database_file,
    moving_files,
    optional,
    required,
    shown_uri,
    tracking_uri,
)

NOTE = "mlflow_run"
logger = logging.getLogger(__name__)


def address(config: Config, run_id: str) -> str:
    """Where to look at a run: its page on the server, or the command that shows a database."""
    uri = tracking_uri(config)
    if not uri.startswith("http"):
        return f"mlflow ui --backend-store-uri {shlex.quote(without_password(uri))}"
    try:
        experiment = mlflow.MlflowClient(uri).get_run(run_id).info.experiment_id
    except UNREACHABLE:
        return without_password(uri)
    return f"{without_password(uri).rstrip('/')}/#/experiments/{experiment}/runs/{run_id}"


def note_run(folder: Path, run_id: str) -> None:
    """Keep the MLflow run of a run folder, for the commands that go on with it."""
    write_whole(folder / NOTE, run_id.encode())


def noted_run(folder: Path) -> str | None:
    """The MLflow run that a run folder is recorded in."""
    path = folder / NOTE
    return path.read_text("utf-8") or None if path.exists() else None


def start_run(
    config: Config,
    name: str,
    tags: Mapping[str, str],
    resume: str | None = None,
    anew: bool = False,
) -> str:
    """Create a run with the settings as its parameters, or reopen the run `resume`.

    Parameters cannot change; tags can, so what changed since is in `tags`. A run to resume that was
    deleted, for good or not, that belongs to another run folder, of which this one is a copy, or
    that is in another experiment or parent is replaced by a new one, with a warning.

    Args:
        anew: whether training begins with its first step. A run that was begun with other settings
            is left then: its parameters and points are those of another training.

    Returns:
        the run id.

    Raises:
        TrackingError: the store cannot be reached, or lacks the experiment or `tracking.parent`.
    """
    uri = tracking_uri(config)
    mlflow.set_tracking_uri(uri)
    if CHOSEN_ELSEWHERE and not config.tracking.uri and uri != CHOSEN_ELSEWHERE:
        logger.warning(
            "MLFLOW_TRACKING_URI=%s has no effect: the run is recorded in %s; tracking.uri names "
            "another store",
            without_password(CHOSEN_ELSEWHERE),
            uri,
        )
    parent = config.tracking.parent
    with required(f"tracking.uri={uri}", "; start the server or choose another store"):
        client = _writing_client(uri)
        if resume and (why := _not_own(client, resume, config, anew)):
            logger.warning("MLflow run %s %s; starting a new one", resume, why)
            resume = None
        if resume:
            _tell_if_moved(config, uri, client.get_run(resume))
            client.update_run(resume, status="RUNNING")
            for key, value in tags.items():
                client.set_tag(resume, key, value)
            return resume
        if parent and not is_active(client, parent):
            raise TrackingError(f"tracking.parent={parent}: there is no such run in {uri}")
        if parent:
            tags = {**tags, MLFLOW_PARENT_RUN_ID: parent}
        run = client.create_run(_experiment(client, config, uri), run_name=name, tags=dict(tags))
        params = [Param(key, value) for key, value in _params(config).items()]
        client.log_batch(run.info.run_id, params=params)
        _tell_if_moved(config, uri, run)
        return run.info.run_id


def _params(config: Config) -> dict[str, str]:
    """The settings as MLflow keeps them."""
    return {accepted(key): without_password(str(value))[:6000] for key, value in flatten(config)}


def _writing_client(uri: str) -> mlflow.MlflowClient:
    """A client of a store whose tables are there; one command at a time makes those of a file."""
    with ExitStack() as held:
        if path := database_file(uri):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("ab").close()  # MLflow would try for minutes to write where it may not
            with suppress(OSError):  # a file system without locks
                held.enter_context(file_lock(path.with_name(f"{path.name}.lock")))
        return mlflow.MlflowClient(uri)


def _not_own(client: mlflow.MlflowClient, run_id: str, config: Config, anew: bool) -> str:
    """Why a run of the store cannot be gone on with; empty if it can."""
    if not is_active(client, run_id):
        return f"was deleted from {shown_uri(config)}, never was there, or may not be read"
    run, now = client.get_run(run_id), _params(config)
    before = run.data.params
    name = before.get("run.name")
    if name != config.run.name:
        return f"belongs to run.name={name}, of which {config.run.name} is a copy"
    for key in ("tracking.experiment", "tracking.parent"):
        if before.get(key, now[key]) != now[key]:
            return f"has {key}={before[key]}"
    if changed := [key for key in now if before.get(key, now[key]) != now[key] and anew]:
        if run.info.status == "RUNNING":  # whoever began it was killed
            client.set_terminated(run_id, "KILLED")
        return f"was begun with another {', '.join(changed)}, and training begins anew"
    return ""


def is_active(client: mlflow.MlflowClient, run_id: str) -> bool:
    """Whether a store has a run that was not deleted, and that this user may read."""
    try:
        return client.get_run(run_id).info.lifecycle_stage == LifecycleStage.ACTIVE
    except MlflowException as error:
        # A server with accounts refuses to tell whether it has a run.
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "PERMISSION_DENIED"):
            return False
        raise


def finish_run(
    config: Config, run_id: str, status: str = "FINISHED", artifacts: Iterable[Path] = ()
) -> None:
    """Attach files to a run and end it; what the store refuses is only told."""
    client = mlflow.MlflowClient(tracking_uri(config))
    with optional(run_id, "keep its files"), moving_files():
        for path in artifacts:
            client.log_artifact(run_id, str(path))
    with optional(run_id, "be ended"):
        client.set_terminated(run_id, status)


@contextmanager
def end_on_error(
    config: Config, run_id: str | None, draw: Callable[[], Iterable[Path]] = tuple
) -> Iterator[None]:
    """End a run, if there is one, that an error in the block leaves: KILLED if asked to stop.

    Args:
        draw: makes files to attach, also where there is no run.
    """
    try:
        yield
    except BaseException as error:
        files = draw()
        if run_id:
            asked = isinstance(error, Interrupted | KeyboardInterrupt)
            finish_run(config, run_id, "KILLED" if asked else "FAILED", files)
        raise


def record_scores(config: Config, run_id: str, scores: Mapping[str, float | None]) -> None:
    """Add final scores to a run; if the server cannot be reached, only warn."""
    client = mlflow.MlflowClient(tracking_uri(config))
    found = [point(grouped(name), value) for name, value in scores.items() if value is not None]
    with optional(run_id, "store its final scores"):
        client.log_batch(run_id, metrics=found)


def _place_of_files(config: Config, uri: str) -> str:
    """URL of the storage, or of the folder of a SQLite file.

    MLflow writes into an object store with packages that users of SQLite need not have.
    """
    storage, database = config.run.storage, database_file(uri)
    if not is_url(storage):
        return Path(storage).as_uri()
    return database.parent.as_uri() if database else storage.rstrip("/")


def _tell_if_moved(config: Config, uri: str, run: Run) -> None:
    """Warn of a run whose files MLflow keeps in a storage that is gone, as after a move of it.

    A database names places of files by absolute paths; MLflow would make the old folder anew.
    """
    place = run.info.artifact_uri.removesuffix(f"/{run.info.run_id}/artifacts")
    now = _place_of_files(config, uri) + "/mlartifacts"
    if uri.startswith("http") or not place.startswith("file:") or place == now:
        return
    old = local_file_uri_to_path(place)
    # The storage alone: its `mlartifacts` are made with the first file.
    if not os.path.exists(os.path.dirname(old)):
        logger.warning(
            "MLflow keeps files of the experiment %s in %s, where nothing is. If that folder was "
            "moved, make the old path a link to it: files of earlier runs and versions are found "
            "again, and new ones lie beside them",
            config.tracking.experiment,
            old,
        )


def _experiment(client: mlflow.MlflowClient, config: Config, uri: str) -> str:
    name = config.tracking.experiment
    experiment = client.get_experiment_by_name(name)
    if experiment and experiment.lifecycle_stage != LifecycleStage.ACTIVE:
        raise TrackingError(
            f"tracking.experiment={name} was deleted from {uri}: restore it (mlflow experiments "
            f"restore --experiment-id {experiment.experiment_id}), or choose another name"
        )
    if experiment:
        return experiment.experiment_id
    # A database stores no files; MLflow would put them into the working directory.
    location = None if uri.startswith("http") else f"{_place_of_files(config, uri)}/mlartifacts"
    try:
        return client.create_experiment(name, artifact_location=location)
    except MlflowException:
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            raise
        return experiment.experiment_id  # another command was faster
