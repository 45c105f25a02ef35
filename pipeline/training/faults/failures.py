"""What a failed worker means: restart all workers from the newest checkpoint, or stop the run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import NezhaError, ShardError, TrainingError
from pipeline.feed.checking import truncated
from pipeline.feed.opening import training_folders
from pipeline.paths import RunPaths
from pipeline.settings.config import Config
from pipeline.training.checkpoints import files
from pipeline.training.faults import events, memory
from pipeline.training.faults.divergence import Diverged
from pipeline.training.faults.hang import STACKS, waiting_ranks
from pipeline.training.faults.workers import read_workers

MAX_REWINDS = 3
"""Rewinds from one checkpoint. If the run diverges on all data, the data is not the cause."""
DEATHS = {"RayActorError", "WorkerHealthCheckFailedError", "WorkerHealthCheckTimeoutError"}
"""Names of Ray's errors for a process that ended or does not answer."""


class FailurePolicy:
    """Decides what failed workers mean for a run.

    Failures count since the last new checkpoint, so that a long run may fail often.
    """

    def __init__(self, config: Config) -> None:
        self._config, self._faults, self._paths = config, config.faults, RunPaths.of(config)
        self._failures = 0
        self._newest: Path | None = None
        """The newest checkpoint at the last failure."""

    def decide(self, errors: Mapping[int, Exception]) -> NezhaError | None:
        """Decide, and write the decision into the run's record.

        Args:
            errors: what each failed worker raised, or how it died, by rank.

        Returns:
            the error to stop the run with, which says how to go on; None: restart the workers.
        """
        newest = files.newest(self._paths.checkpoints)
        place = f"from {newest.name}" if newest else "from the start"
        died = any(map(is_death, errors.values()))
        # To read what was cut from a mapped file ends a process (SIGBUS).
        cut = truncated(training_folders(self._config)) if died else []
        if cut and self._faults.damaged_shard == "stop":
            return self._stop(ShardError("\n".join(cut) + "\nrun jobs.prepare again"))
        for error in map(original, errors.values()):
            if memory.ran_out(error) and self._shrink(error):
                return None
            if isinstance(error, Diverged) and self._faults.spike == "rewind":
                return self._rewind(error, files.step_of(newest) if newest else 0)
            if isinstance(error, NezhaError):
                return self._stop(error)  # it would be raised again
        what = describe(errors, self._paths.run, self._faults.hang_seconds)
        if any(map(memory.ran_out, map(original, errors.values()))):
            what += f"; {memory.advice(self._shrunk())}"
        if newest != self._newest:
            self._failures, self._newest = 0, newest
        self._failures += 1
        limit = self._faults.max_failures
        if limit < 0 or self._failures <= limit:
            number = f"restart {self._failures}" + (f" of {limit}" if limit >= 0 else "")
            events.record(self._paths.run, "restart", f"{what}; {number}, {place}")
            return None
        return self._stop(
            TrainingError(
                f"{what}; that is failure number {self._failures} without a new checkpoint "
                f"(faults.max_failures={limit}); the same command goes on {place}"
            )
        )

    def _shrunk(self) -> Config:
        return shrunk(self._config, events.read(self._paths.run))

    def _shrink(self, error: Exception) -> bool:
        """Halve the micro-batch for the next start, if the settings allow it and it can be."""
        configured = self._config.train.micro_batch
        now: int | None = self._shrunk().train.micro_batch
        if isinstance(error, memory.OutOfMemory):
            now = error.micro_batch  # under torchrun another rank may have recorded it already
        if not self._faults.shrink_on_oom or now in (None, 1):
            return False
        half = -(-now // 2)
        text = f"{first_line(error)}; going on with train.micro_batch={half} instead of {now}"
        facts = {"micro_batch": half, "configured": configured}
        events.record(self._paths.run, "shrink", text, **facts)
        return True

    def _rewind(self, error: Diverged, start: int) -> NezhaError | None:
        """Go back to the checkpoint of a step, unless that was done too often."""
        run = self._paths.run
        text = f"{error}; going back to step {start}, past the data of the steps since then"
        events.record(run, "rewind", text, checkpoint=start, step=error.step)
        if len(_rewinds(run, start)) > MAX_REWINDS:
            times = f"it has diverged {MAX_REWINDS + 1} times from step {start}"
            return self._stop(TrainingError(f"{error}; {times}"))
        return None

    def _stop(self, error: NezhaError) -> NezhaError:
        events.record(self._paths.run, "stop", f"stopped: {error}")
        return error


def batches_skipped(run: Path, step: int) -> int:
    """Global batches that rewinds to the checkpoint of this step have left out."""
    return sum(event["step"] - step for event in _rewinds(run, step))


def shrunk(config: Config, happened: Sequence[Mapping[str, Any]]) -> Config:
    """The settings, with `train.micro_batch` as the run's `shrink` events have lowered it.

    Args:
        happened: the run's events.
    """
    train = config.train
    found = [event for event in happened if event["kind"] == "shrink"]
    sizes = [e["micro_batch"] for e in found if e.get("configured") == train.micro_batch]
    size = min(sizes, default=train.micro_batch)
    return config.model_copy(update={"train": train.model_copy(update={"micro_batch": size})})


def _rewinds(run: Path, step: int) -> list[dict[str, Any]]:
    """The rewinds to the checkpoint of a step."""
    found = [event for event in events.read(run) if event["kind"] == "rewind"]
    return [event for event in found if event.get("checkpoint") == step and "step" in event]


def original(error: Exception) -> Exception:
    """What a worker raised, or how it ended, without what Ray wraps around it."""
    return getattr(error, "_base_exc", getattr(error, "health_check_failure", error))


def describe(errors: Mapping[int, Exception], run: Path, hang_seconds: float) -> str:
    """One sentence on the worker whose failure caused those of the others.

    A worker that died breaks the connections of the others, who then raise; so a death is named
    rather than an exception.
    """
    if hung := hung_ranks(run, errors):
        names = ", ".join(_named(rank, run) for rank in hung)
        return (
            f"{names} made no step for {hang_seconds:g} s (faults.hang_seconds); the others wrote "
            f"their stacks into {run / STACKS}_…"
        )
    deaths = {rank: error for rank, error in errors.items() if is_death(error)}
    rank, error = min((deaths or dict(errors)).items())
    if deaths:
        return f"{_named(rank, run)} died ({first_line(original(error))})"
    error = original(error)
    return f"{_named(rank, run)} failed ({type(error).__name__}: {first_line(error)})"


def _named(rank: int, run: Path) -> str:
    worker = read_workers(run).get(rank)
    return f"worker {rank} on {worker.host} (pid {worker.pid})" if worker else f"worker {rank}"


def is_death(error: Exception) -> bool:
    """Whether the worker's process ended, rather than raised an exception."""
    return bool(DEATHS & {base.__name__ for base in type(original(error)).__mro__})


def first_line(error: BaseException) -> str:
    """What an error says, at most 200 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else "no message"


def hung_ranks(run: Path, errors: Mapping[int, Exception]) -> list[int]:
    """Ranks that hang: they wrote no stacks and raised nothing, while others wrote theirs.

    A stopped process can do neither. If every rank wrote its stacks, all of them made no step.
    """
    waited = waiting_ranks(run)
    silent = set(read_workers(run)) - waited - {r for r, e in errors.items() if not is_death(e)}
    return sorted(silent or waited) if waited else []
