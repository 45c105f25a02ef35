"""Metrics to MLflow, in the background: an outage of the server cannot stop a run."""

import logging
import queue
import threading
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import mlflow
from mlflow.entities import Metric
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential

from pipeline.tracking.metric_names import grouped, point
from pipeline.tracking.store import UNREACHABLE, reason

logger = logging.getLogger(__name__)
CLOSE_SECONDS = 20
"""How long the end of a run waits for a server that is down."""
BATCH = 1000
"""Metrics that MLflow takes in one request."""


class MetricSender:
    """Sends metrics to a run from its own thread, so that training never waits for a server.

    What could not be sent waits for the next metrics. Metrics are sent in the order of their steps.
    So a point whose step is not beyond the last one that the run has under this name is there
    already, and is not sent again: a resumed run, which repeats the steps since its checkpoint,
    shows each step once, and all records of a run can be handed over again to fill what is missing.

    Args:
        uri: MLflow's.
        run_id: of the run.
        system_metrics: whether to add those of this machine.
        earlier: records, each with its `step`, that the run may lack. The thread takes them one by
            one, because those of a long run are millions of metrics.
    """

    def __init__(
        self,
        uri: str,
        run_id: str,
        system_metrics: bool = True,
        earlier: Iterable[Mapping[str, float]] = (),
    ) -> None:
        self._uri, self._run_id = uri, run_id
        self._client: mlflow.MlflowClient | None = None
        """Made in the thread: MLflow connects to a database then, which may fail or take long."""
        self._queue: queue.SimpleQueue[list[Metric] | None] = queue.SimpleQueue()
        self._monitor = self._start_monitor(uri) if system_metrics else None
        self._earlier = (metric for record in earlier for metric in self._lacking(record))
        self._waiting: list[Metric] = []
        self._batch: list[Metric] = []
        """What is being sent; it stays here until the server has taken it."""
        self._sent = 0
        self._last_steps: dict[str, int] = {}
        """Of each metric, the last step that the run has."""
        self._warned = False
        self._thread = threading.Thread(target=self._send_all, name="mlflow", daemon=True)
        self._thread.start()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Queue the metrics of one step, under the names of `metric_names`."""
        self._queue.put([point(grouped(key), value, step) for key, value in values.items()])

    def close(self, whole: bool = False, kept_in: str = "the run's own files") -> int:
        """Send what is left; returns how many metrics the server did not take, and warns of them.

        The run's own files have them: `metrics.jsonl`, from which the next start or the end of a
        training sends them again, or `results.json` of a head.

        Args:
            whole: wait as long as the server takes metrics, not a minute at most.
            kept_in: what has them too, for the warning.
        """
        if self._monitor:
            self._monitor.finish()
        self._queue.put(None)
        sent = -1
        while self._thread.is_alive() and sent < self._sent:
            sent = self._sent
            self._thread.join(3 * CLOSE_SECONDS)
            if not whole:
                break
        left = len(self._batch) + len(self._waiting)
        if left:
            logger.warning("MLflow did not receive %d metrics; %s have them", left, kept_in)
        return left

    def _send_all(self) -> None:
        while (metrics := self._queue.get()) is not None:
            self._waiting += metrics
            if not self._queue.empty():
                continue
            try:
                self._send_waiting()
            except UNREACHABLE as error:
                if not self._warned:
                    logger.warning("MLflow cannot be reached, the run continues: %s", reason(error))
                self._warned = True
        attempts = Retrying(
            retry=retry_if_exception_type(UNREACHABLE),
            stop=stop_after_delay(CLOSE_SECONDS),
            wait=wait_exponential(max=5),
            retry_error_callback=lambda _: None,
        )
        attempts(self._send_waiting)

    def _send_waiting(self) -> None:
        if self._client is None:
            client = mlflow.MlflowClient(self._uri)
            # Of each metric, the server gives the point with the last step.
            run = client.get_run(self._run_id).data.to_proto()
            self._last_steps = {metric.key: metric.step for metric in run.metrics}
            self._client = client
        while self._batch or self._fill_batch():
            self._client.log_batch(self._run_id, metrics=self._batch)
            self._last_steps |= {metric.key: metric.step for metric in self._batch}
            self._sent += len(self._batch)
            self._batch = []

    def _fill_batch(self) -> bool:
        """Take the next metrics that the run lacks; returns whether there are any."""
        self._batch = list(islice(self._earlier, BATCH))
        while self._waiting and not self._batch:
            taken = self._waiting[:BATCH]
            del self._waiting[:BATCH]
            self._batch = [each for each in taken if self._lacks(each.key, each.step)]
        return bool(self._batch)

    def _lacks(self, name: str, step: int) -> bool:
        return step > self._last_steps.get(name, -1)

    def _lacking(self, record: Mapping[str, float]) -> list[Metric]:
        """The metrics of a record that the run lacks."""
        step = int(record["step"])
        return [
            point(name, value, step)
            for key, value in record.items()
            if key != "step" and self._lacks(name := grouped(key), step)
        ]

    def _start_monitor(self, uri: str) -> Any:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        try:
            monitor = SystemMetricsMonitor(
                self._run_id, resume_logging=True, tracking_uri=uri, sampling_interval=10
            )
            monitor.start()
        except Exception as error:
            logger.warning("MLflow records no system metrics: %s", reason(error))
            return None
        return monitor
