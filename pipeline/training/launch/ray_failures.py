"""What Ray Train's controller does when workers fail."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import ray
from ray.train import UserCallback
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.controller.state import (
    InitializingState,
    ReschedulingState,
    RestartingState,
    RunningState,
)

from pipeline.cluster import ray_cluster, remote_disk
from pipeline.errors import Interrupted
from pipeline.files.storage import write_whole
from pipeline.paths import RunPaths
from pipeline.settings.config import Config
from pipeline.training.checkpoints import files
from pipeline.training.faults import events, hang, stop
from pipeline.training.faults.failures import FailurePolicy, first_line, hung_ranks, original
from pipeline.training.faults.workers import Worker, read_workers

GATHER_SECONDS = 45.0
"""How long nodes have to start a process and give the stacks that were written there."""
PATIENCE_SECONDS = 30.0
"""How long workers may be missing without a word."""


class RestartOrStop(UserCallback):
    """Runs in Ray Train's controller; raises an error to end the run."""

    def __init__(self, config: Config, offer: remote_disk.Offer) -> None:
        self._policy, self._run, self._offer = FailurePolicy(config), RunPaths.of(config).run, offer
        self._preempted: set[Worker | None] = set()

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        if lost := {rank for rank, error in worker_exceptions.items() if _is_preempted(error)}:
            # Ray asks again and again until the node is gone, and counts these failures apart.
            # After a restart, the same rank is another process.
            found = read_workers(self._run)
            gone = {found.get(rank) for rank in lost}
            if not gone <= self._preempted:
                text = f"the nodes of workers {sorted(lost)} were taken away; the workers restart"
                events.record(self._run, "restart", text)
            self._preempted = gone
            return
        _gather_stacks(self._run, self._offer)
        hung = hung_ranks(self._run, worker_exceptions)
        error = self._policy.decide(worker_exceptions)
        found = read_workers(self._run)
        for worker in (found[rank] for rank in hung if rank in found):
            # A stopped process does not take Ray's request to end.
            there = {f"node:{worker.host}": 0.001}
            ray.remote(num_cpus=0, resources=there)(_kill).remote(worker.pid)
        hang.clear(self._run)
        if error:
            raise error


class WithoutWorkers(ControllerCallback):
    """Runs in Ray Train's controller: heeds a request to stop while no worker is there to do so.

    Ray Train asks for workers again and again, without a word; so it also tells why none come.

    Args:
        checkpoints: the folder of its checkpoints.
        workers: the fewest that the run goes on with.
        bundle: CPUs and GPUs of each.
    """

    def __init__(
        self, run: Path, checkpoints: Path, workers: int, bundle: dict[str, float]
    ) -> None:
        self._run, self._checkpoints = run, checkpoints
        self._workers, self._bundle = workers, bundle
        self._since: float | None = None
        """When the workers went; None: they are there."""
        self._told = ""

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        """Called also where the state stays the same.

        Raises:
            Interrupted: the run was asked to stop.
        """
        if isinstance(current_state, RunningState):
            self._since, self._told = None, ""
        if not isinstance(current_state, InitializingState | RestartingState | ReschedulingState):
            return
        if stop.requested(self._run):
            newest = files.newest(self._checkpoints)
            name = newest.name if newest else "none yet"
            text = f"stopped while no worker ran; the newest checkpoint: {name}"
            events.record(self._run, "interrupted", text)
            raise Interrupted(f"{text}; the same command goes on")
        self._since = self._since or time.monotonic()
        late = time.monotonic() - self._since > PATIENCE_SECONDS
        if late or isinstance(current_state, ReschedulingState):  # Ray has waited for a minute
            self._tell(getattr(current_state, "training_failed_error", None))

    def _tell(self, error: Exception | None) -> None:
        """Say once why no workers come."""
        cause = getattr(error, "controller_failure", None)
        if isinstance(cause, WorkerGroupStartupFailedError):
            text = f"the workers did not start: {first_line(cause.__cause__ or cause)}; once more"
        else:
            lack = ray_cluster.lacking(self._workers, self._bundle) or ray_cluster.IN_USE
            text = f"waiting for room: {self._workers} worker(s) need {lack}"
        if text != self._told:
            events.record(self._run, "waiting", text)
            self._told = text


def _gather_stacks(run: Path, offer: remote_disk.Offer) -> None:
    """Copy the stacks that workers wrote on nodes that do not see the run's folder."""
    if offer.caller is None:
        return  # there is no other node
    found, _ = ray_cluster.on_each_node(_take_stacks, GATHER_SECONDS, offer)
    for stacks in found.values():
        for name, data in stacks.items():
            write_whole(run / hang.STACKS / name, data)


def _take_stacks(_node: str, offer: remote_disk.Offer) -> dict[str, bytes]:
    return hang.take(remote_disk.copies(offer))


def _is_preempted(error: Exception) -> bool:
    """Whether the worker's node was taken away by the cloud; Ray wraps what it found."""
    return getattr(original(error), "preempted", False)


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
