"""What a failed worker means: restart all workers from the newest checkpoint, or stop the run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import NezhaError, TrainingError
from pipeline.paths import RunPaths
from pipeline.settings.config import Config
from pipeline.training.checkpoints import files
from pipeline.training.faults import events
from pipeline.training.faults.divergence import Diverged
from pipeline.training.faults.hang import STACKS, waiting_ranks

WORKERS = "workers.json"
MAX_REWINDS = 3
"""Rewinds from one checkpoint: data can't be the cause if the run diverges on all of it."""


@dataclass
class Budget:
    """Counts failures since the last new checkpoint, so that a long run may fail often."""

    limit: int
    """Restarts allowed; -1: any number."""
    failures: int = 0
    newest: Path | None = None
    """The newest checkpoint at the last failure."""

    def charge(self, newest: Path | None) -> bool:
        """Count one failure; returns whether the workers may be restarted."""
        if newest != self.newest:
            self.failures, self.newest = 0, newest
        self.failures += 1
        return self.limit < 0 or self.failures <= self.limit


class Judge:
    """Decides what failed workers mean for a run."""

    def __init__(self, config: Config) -> None:
        self._faults, self._paths = config.faults, RunPaths.of(config)
        self._failures, self._rewinds = Budget(config.faults.max_failures), Budget(MAX_REWINDS)

    def decide(self, errors: Mapping[int, Exception]) -> NezhaError | None:
        """Decide, and record it for the person who watches the run.

        Args:
            errors: what each failed worker raised, or how it died, by rank.

        Returns:
            the error to stop the run with, which says how to go on; None: restart the workers.
        """
        newest = files.newest(self._paths.checkpoints)
        place = f"from {newest.name}" if newest else "from the start"
        for error in map(original, errors.values()):
            if isinstance(error, Diverged) and self._faults.spike == "rewind":
                if self._rewinds.charge(newest):
                    self._rewind(error, newest)
                    return None
                return self._stop(
                    TrainingError(f"{error}; it diverged {MAX_REWINDS + 1} times {place}")
                )
            if isinstance(error, NezhaError):
                return self._stop(error)  # it would be raised again
        what = describe(errors, self._paths.run)
        if self._failures.charge(newest):
            number = f"restart {self._failures.failures}"
            number += f" of {self._failures.limit}" if self._failures.limit >= 0 else ""
            events.record(self._paths.run, "restart", f"{what}; {number}, {place}")
            return None
        return self._stop(
            TrainingError(
                f"{what}; that is failure {self._failures.failures} {place} "
                f"(faults.max_failures={self._failures.limit}); the same command goes on {place}"
            )
        )

    def _rewind(self, error: Diverged, newest: Path | None) -> None:
        start = files.step_of(newest) if newest else 0
        text = f"{error}; going back to step {start}, past the data of the steps since then"
        events.record(self._paths.run, "rewind", text, checkpoint=start, step=error.step)

    def _stop(self, error: NezhaError) -> NezhaError:
        events.record(self._paths.run, "stop", f"stopped: {error}")
        return error


def batches_skipped(run: Path, step: int) -> int:
    """Global batches that rewinds to the checkpoint of this step have left out."""
    rewinds = [event for event in events.read(run) if event["kind"] == "rewind"]
    return sum(event["step"] - step for event in rewinds if event["checkpoint"] == step)


def original(error: Exception) -> Exception:
    """What a worker raised; Ray wraps it to keep its traceback."""
    return getattr(error, "_base_exc", error)


def describe(errors: Mapping[int, Exception], run: Path) -> str:
    """One sentence on the worker whose failure caused those of the others.

    A worker that died breaks the connections of the others, who then raise; so a death is named
    rather than an exception.
    """
    if waited := waiting_ranks(run):
        names = ", ".join(_named(rank, run) for rank in hung_ranks(run) or sorted(waited))
        return f"{names} made no step for faults.hang_seconds; stacks are in {run / STACKS}"
    deaths = {rank: error for rank, error in errors.items() if is_death(error)}
    rank, error = min((deaths or dict(errors)).items())
    if deaths:
        return f"{_named(rank, run)} died ({_first_line(error)})"
    error = original(error)
    return f"{_named(rank, run)} failed ({type(error).__name__}: {_first_line(error)})"


def _named(rank: int, run: Path) -> str:
    worker = workers(run).get(rank)
    return f"worker {rank} on {worker.host} (pid {worker.pid})" if worker else f"worker {rank}"


def is_death(error: Exception) -> bool:
    """Whether the worker's process ended, rather than raised an exception."""
    names = {base.__name__ for base in type(original(error)).__mro__}
    return bool(names & {"RayActorError", "WorkerHealthCheckFailedError"})


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else "no message"


def hung_ranks(run: Path) -> list[int]:
    """The ranks that the others waited for in vain."""
    waited = waiting_ranks(run)
    return sorted(set(workers(run)) - waited) if waited else []


class Worker(NamedTuple):
    """Where a rank runs."""

    host: str
    pid: int


def write_workers(run: Path, found: list[Worker]) -> None:
    """Note where each rank runs; rank 0 calls it before the first step."""
    (run / WORKERS).write_text(json.dumps(found), "utf-8")


def workers(run: Path) -> dict[int, Worker]:
    """Where each rank ran last."""
    path = run / WORKERS
    if not path.exists():
        return {}
    return {rank: Worker(*row) for rank, row in enumerate(json.loads(path.read_text("utf-8")))}
