"""What Ray Train's controller does when workers fail."""

from __future__ import annotations

import os
import signal
from typing import Any

import ray
from ray.train import UserCallback

from pipeline.paths import RunPaths
from pipeline.settings.config import Config
from pipeline.training.faults import events, hang
from pipeline.training.faults.failures import Judge, Worker, hung_ranks, workers


class RestartOrStop(UserCallback):
    """Runs in Ray Train's controller; raises an error to end the run."""

    def __init__(self, config: Config) -> None:
        self._judge, self._run = Judge(config), RunPaths.of(config).run
        self._preempted: set[Worker | None] = set()

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        if lost := {rank for rank, error in worker_exceptions.items() if _is_preempted(error)}:
            # Ray asks again and again until the node is gone, and counts these failures apart.
            # After a restart, the same rank is another process.
            found = workers(self._run)
            gone = {found.get(rank) for rank in lost}
            if not gone <= self._preempted:
                text = f"the nodes of workers {sorted(lost)} were taken away; the workers restart"
                events.record(self._run, "restart", text)
            self._preempted = gone
            return
        hung = hung_ranks(self._run, worker_exceptions)
        error = self._judge.decide(worker_exceptions)
        found = workers(self._run)
        for worker in (found[rank] for rank in hung if rank in found):
            # A stopped process does not take Ray's request to end.
            there = {f"node:{worker.host}": 0.001}
            ray.remote(num_cpus=0, resources=there)(_kill).remote(worker.pid)
        hang.clear(self._run)
        if error:
            raise error


def _is_preempted(error: Exception) -> bool:
    """Whether the worker's node was taken away by the cloud; Ray wraps what it found."""
    return bool(getattr(getattr(error, "health_check_failure", error), "preempted", False))


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
