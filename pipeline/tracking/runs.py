"""MLflow: where runs are recorded, and a recorder that an outage can't stop."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from pydantic import BaseModel
from tenacity import retry, stop_after_delay, wait_exponential

from pipeline.errors import TrackingError
from pipeline.settings.config import Config

log = logging.getLogger(__name__)
FLUSH_SECONDS = 60


def tracking_uri(config: Config) -> str:
    """The user's server, or a SQLite file in the storage folder.

    Raises:
        TrackingError: a scheme that MLflow 3 refuses.
    """
    uri = config.tracking.uri or f"sqlite:///{config.run.storage}/mlflow.db"
    if not uri.startswith(("http://", "https://", "sqlite://", "postgresql", "mysql", "mssql")):
        raise TrackingError(
            f"tracking.uri={uri}: MLflow 3 takes a server (http://…) or a database (sqlite:///…)"
        )
    return uri


def start_run(config: Config, name: str, tags: Mapping[str, str], resume: str | None = None) -> str:
    """Create a run with the settings as its parameters, or find one to go on with.

    Raises:
        TrackingError: the store can't be reached; found out before anything is computed.
    """
    uri = tracking_uri(config)
    mlflow.set_tracking_uri(uri)
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    client = mlflow.MlflowClient(uri)
    try:
        if resume:
            client.update_run(resume, status="RUNNING")
            return resume
        run = client.create_run(_experiment(client, config, uri), run_name=name, tags=dict(tags))
        params = [Param(key, str(value)[:6000]) for key, value in flatten(config)]
        client.log_batch(run.info.run_id, params=params)
    except (MlflowException, OSError) as error:
        if resume and getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST":
            log.warning("MLflow run %s is gone from %s: a new one is begun", resume, uri)
            return start_run(config, name, tags)
        raise TrackingError(
            f"tracking.uri={uri}: {error}; start the server or choose another store"
        ) from error
    return run.info.run_id


def finish_run(
    config: Config, run_id: str, status: str = "FINISHED", artifacts: Iterable[Path] = ()
) -> None:
    """Attach files and close a run; an unreachable server costs a warning, not the result."""
    client = mlflow.MlflowClient(tracking_uri(config))
    try:
        for path in artifacts:
            client.log_artifact(run_id, str(path))
        client.set_terminated(run_id, status)
    except (MlflowException, OSError) as error:
        log.warning("MLflow run %s could not be closed: %s", run_id, error)


def record_scores(config: Config, run_id: str, scores: Mapping[str, float | None]) -> None:
    """Add final scores to a run; an unreachable server costs a warning."""
    client = mlflow.MlflowClient(tracking_uri(config))
    try:
        for name, value in scores.items():
            if value is not None:
                client.log_metric(run_id, name, value)
    except (MlflowException, OSError) as error:
        log.warning("MLflow run %s did not take its final scores: %s", run_id, error)


def flatten(settings: BaseModel, prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted names and values of all settings."""
    pairs: list[tuple[str, Any]] = []
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            pairs.extend(flatten(value, f"{prefix}{name}."))
        elif isinstance(value, dict):
            for key, item in value.items():
                pairs.extend(flatten(item, f"{prefix}{name}.{key}."))
        else:
            pairs.append((prefix + name, value))
    return pairs


class Tracker:
    """Sends points to a run from a thread of its own, so that training never waits for a server.

    A point is tried again for a minute while later ones wait; those that never went through stand
    in the run's `metrics.jsonl` and are counted in a warning at `close`.
    """

    def __init__(self, uri: str, run_id: str, system_metrics: bool = True) -> None:
        self._client = mlflow.MlflowClient(uri)
        self._run_id = run_id
        self._points: queue.SimpleQueue[list[Metric] | None] = queue.SimpleQueue()
        self._monitor = self._start_monitor(uri) if system_metrics else None
        self._unsent = 0
        self._thread = threading.Thread(target=self._send_all, name="mlflow", daemon=True)
        self._thread.start()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Queue the points of one step."""
        now = int(time.time() * 1000)
        self._points.put([Metric(key, float(value), now, step) for key, value in values.items()])

    def close(self) -> None:
        """Send what is left, for a minute at most."""
        if self._monitor:
            self._monitor.finish()
        self._points.put(None)
        self._thread.join(2 * FLUSH_SECONDS)
        if self._unsent:
            log.warning("MLflow did not take %d points; metrics.jsonl has them", self._unsent)

    def _send_all(self) -> None:
        while (points := self._points.get()) is not None:
            self._unsent += len(points)
            try:
                self._send(points)
            except (MlflowException, OSError) as error:
                log.warning("MLflow is out of reach, training goes on: %s", error)
            else:
                self._unsent -= len(points)

    @retry(stop=stop_after_delay(FLUSH_SECONDS), wait=wait_exponential(max=10), reraise=True)
    def _send(self, points: list[Metric]) -> None:
        self._client.log_batch(self._run_id, metrics=points)

    def _start_monitor(self, uri: str) -> Any:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        try:
            monitor = SystemMetricsMonitor(
                self._run_id, resume_logging=True, tracking_uri=uri, sampling_interval=10
            )
            monitor.start()
        except Exception as error:
            log.warning("MLflow system metrics are off: %s", error)
            return None
        return monitor


def _experiment(client: mlflow.MlflowClient, config: Config, uri: str) -> str:
    experiment = client.get_experiment_by_name(config.tracking.experiment)
    if experiment:
        return experiment.experiment_id
    # A database knows no place for files; MLflow would put them under the working directory.
    place = Path(config.run.storage, "mlartifacts")
    location = None if uri.startswith("http") else place.as_uri()
    return client.create_experiment(config.tracking.experiment, artifact_location=location)
