"""A run's record as Ray metrics, which Prometheus reads from each node's metrics port."""

import re
import time
from collections.abc import Mapping

from ray.util.metrics import Gauge

PREFIX = "nezha_"


class RunMetrics:
    """Publishes the newest record of a run, its restarts and its goodput.

    Each number of a record is a gauge `nezha_NAME` with the label `run`; Ray puts `ray_` before it.
    """

    def __init__(self, run: str) -> None:
        self._run, self._step = run, 0
        self._gauges: dict[str, Gauge] = {}
        self._started, self._trained = time.monotonic(), 0.0
        self._restarts = 0
        self.set("restarts", 0)

    def begin(self, step: int) -> None:
        """Note the last step that was trained before."""
        self._step = step

    def set(self, name: str, value: float) -> None:
        """Set a gauge; what is not a letter, a digit or `_` in its name becomes `_`."""
        name = PREFIX + re.sub(r"\W", "_", name)
        if name not in self._gauges:
            self._gauges[name] = Gauge(name, tag_keys=("run",))
        self._gauges[name].set(value, {"run": self._run})

    def add(self, record: Mapping[str, float]) -> None:
        """Publish a record.

        `goodput` is the share of the time since the start in which new steps were trained: steps
        that are trained again after a restart are lost time, and so are checkpoints.
        """
        # Ray exports a gauge only soon after it was set.
        for name, value in {**record, "restarts": self._restarts}.items():
            self.set(name, value)
        if "step_seconds" in record:
            new = max(0.0, record["step"] - self._step)
            self._step = max(self._step, int(record["step"]))
            self._trained += new * record["step_seconds"]
            self.set("goodput", self._trained / (time.monotonic() - self._started))

    def happened(self, kind: str) -> None:
        """Count an event of the run's record."""
        if kind in ("restart", "rewind", "shrink"):
            self._restarts += 1
            self.set("restarts", self._restarts)
