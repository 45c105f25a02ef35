"""Metrics to MLflow, in the background: an outage of the server cannot stop a run."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Mapping
from typing import Any

import mlflow
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from tenacity import retry, stop_after_delay, wait_exponential

logger = logging.getLogger(__name__)
RETRY_SECONDS = 60


class MetricSender:
    """Sends metrics to a run from its own thread, so that training never waits for a server.

    It retries for a minute, while later metrics wait in a queue. Metrics that could not be sent are
    in the run's `metrics.jsonl`; `close` warns of their number.
    """

    def __init__(self, uri: str, run_id: str, system_metrics: bool = True) -> None:
        self._client = mlflow.MlflowClient(uri)
        self._run_id = run_id
        self._queue: queue.SimpleQueue[list[Metric] | None] = queue.SimpleQueue()
        self._monitor = self._start_monitor(uri) if system_metrics else None
        self._unsent = 0
        self._thread = threading.Thread(target=self._send_all, name="mlflow", daemon=True)
        self._thread.start()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Queue the metrics of one step."""
        now = int(time.time() * 1000)
        self._queue.put([Metric(key, float(value), now, step) for key, value in values.items()])

    def close(self) -> None:
        """Send what is left; gives up after two minutes."""
        if self._monitor:
            self._monitor.finish()
        self._queue.put(None)
        self._thread.join(2 * RETRY_SECONDS)
        if self._unsent:
            logger.warning(
                "MLflow did not receive %d metrics; metrics.jsonl has them", self._unsent
            )

    def _send_all(self) -> None:
        while (metrics := self._queue.get()) is not None:
            self._unsent += len(metrics)
            try:
                self._send(metrics)
            except (MlflowException, OSError) as error:
                logger.warning("MLflow cannot be reached, training continues: %s", error)
            else:
                self._unsent -= len(metrics)

    @retry(stop=stop_after_delay(RETRY_SECONDS), wait=wait_exponential(max=10), reraise=True)
    def _send(self, metrics: list[Metric]) -> None:
        self._client.log_batch(self._run_id, metrics=metrics)

    def _start_monitor(self, uri: str) -> Any:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        try:
            monitor = SystemMetricsMonitor(
                self._run_id, resume_logging=True, tracking_uri=uri, sampling_interval=10
            )
            monitor.start()
        except Exception as error:
            logger.warning("MLflow records no system metrics: %s", error)
            return None
        return monitor
