"""Metrics to MLflow, in the background: an outage of the server cannot stop a run."""

import logging
import queue
import threading
from collections.abc import Mapping
from typing import Any

import mlflow
from mlflow.entities import Metric
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential

from pipeline.passwords import without_password
from pipeline.tracking.metric_names import grouped, point
from pipeline.tracking.store import UNREACHABLE

logger = logging.getLogger(__name__)
CLOSE_SECONDS = 20
"""How long the end of a run waits for a server that is down."""
BATCH = 1000
"""Metrics that MLflow takes in one request."""


class MetricSender:
    """Sends metrics to a run from its own thread, so that training never waits for a server.

    What could not be sent waits for the next metrics. A point that the run has already, by name and
    step, is not sent again: so a resumed run, which repeats the steps since its checkpoint, shows
    each step once, and all records of a run can be handed over again to fill what is missing.
    """

    def __init__(self, uri: str, run_id: str, system_metrics: bool = True) -> None:
        self._client = mlflow.MlflowClient(uri)
        self._run_id = run_id
        self._queue: queue.SimpleQueue[list[Metric] | None] = queue.SimpleQueue()
        self._monitor = self._start_monitor(uri) if system_metrics else None
        self._waiting: list[Metric] = []
        self._known: dict[str, set[int]] | None = None
        self._warned = False
        self._thread = threading.Thread(target=self._send_all, name="mlflow", daemon=True)
        self._thread.start()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Queue the metrics of one step, under the names of `metric_names`."""
        self._queue.put([point(grouped(key), value, step) for key, value in values.items()])

    def close(self) -> int:
        """Send what is left; returns how many metrics the server did not take, and warns of them.

        The run's own files have them: `metrics.jsonl`, from which the next start or the end of a
        training sends them again, or `results.json` of a head.
        """
        if self._monitor:
            self._monitor.finish()
        self._queue.put(None)
        self._thread.join(3 * CLOSE_SECONDS)
        if self._waiting:
            logger.warning(
                "MLflow did not receive %d metrics; the run's own files have them",
                len(self._waiting),
            )
        return len(self._waiting)

    def _send_all(self) -> None:
        while (metrics := self._queue.get()) is not None:
            self._waiting += metrics
            if not self._queue.empty():
                continue
            try:
                self._send_waiting()
            except UNREACHABLE as error:
                if not self._warned:
                    logger.warning(
                        "MLflow cannot be reached, the run continues: %s",
                        without_password(str(error)),
                    )
                self._warned = True
        attempts = Retrying(
            retry=retry_if_exception_type(UNREACHABLE),
            stop=stop_after_delay(CLOSE_SECONDS),
            wait=wait_exponential(max=5),
            retry_error_callback=lambda _: None,
        )
        attempts(self._send_waiting)

    def _send_waiting(self) -> None:
        if self._known is None:
            self._known = self._points_of_the_run()
        while self._waiting:
            batch = self._waiting[:BATCH]
            new = [m for m in batch if m.step not in self._known.setdefault(m.key, set())]
            if new:
                self._client.log_batch(self._run_id, metrics=new)
            for metric in new:
                self._known[metric.key].add(metric.step)
            del self._waiting[:BATCH]

    def _points_of_the_run(self) -> dict[str, set[int]]:
        """Steps that the server has, by metric; system metrics have their own clock."""
        keys = self._client.get_run(self._run_id).data.metrics
        return {
            key: {point.step for point in self._client.get_metric_history(self._run_id, key)}
            for key in keys
            if not key.startswith("system/")
        }

    def _start_monitor(self, uri: str) -> Any:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        try:
            monitor = SystemMetricsMonitor(
                self._run_id, resume_logging=True, tracking_uri=uri, sampling_interval=10
            )
            monitor.start()
        except Exception as error:
            logger.warning("MLflow records no system metrics: %s", without_password(str(error)))
            return None
        return monitor
