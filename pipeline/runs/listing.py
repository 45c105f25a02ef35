"""The runs of a storage folder: how far each is, and why it stopped."""

import os
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import CheckpointError
from pipeline.settings.config import Config
from pipeline.training.checkpoints import files
from pipeline.training.faults import events, lock
from pipeline.training.measure import history


class RunState(NamedTuple):
    """One run at a glance."""

    name: str
    """Its path below the storage folder."""
    state: str
    """`running`, `finished`, `interrupted`, `stopped`, or `ended`, where no record says why."""
    step: int
    """The last one that was recorded."""
    steps: int | None
    """`train.steps` of the newest checkpoint."""
    checkpoint: str
    """Name of the newest complete one."""
    last_event: str
    """The time and the text of the last event."""


def list_runs(storage: Path) -> list[RunState]:
    """Every folder of the storage that a training left its records in, newest first.

    The runs of an ablation are in its folder. Those that this user may not read, as of other users,
    are left out.
    """
    folders = [
        path.parent
        for depth in ("*", "*/*")
        for path in storage.glob(f"{depth}/{events.FILE}")
        if os.access(path, os.R_OK, effective_ids=True)
    ]
    newest_first = sorted(folders, key=_modified, reverse=True)
    return [_state(path, path.relative_to(storage).as_posix()) for path in newest_first]


def _state(run: Path, name: str) -> RunState:
    newest_record, last = history.newest(run), events.newest(run)
    newest = files.newest(run / "checkpoints")
    steps = _steps(newest)
    step = int(newest_record["step"]) if newest_record else 0
    return RunState(
        name=name,
        state=_name_of_state(run, newest, steps, last["kind"] if last else ""),
        step=step,
        steps=steps,
        checkpoint=newest.name if newest else "none",
        last_event=f"{events.clock(last)} {last['text']}" if last else "",
    )


def _name_of_state(run: Path, newest: Path | None, steps: int | None, last: str) -> str:
    if lock.is_held(run):
        return "running"
    if newest and steps is not None and files.step_of(newest) >= steps:
        return "finished"
    return {"stop": "stopped", "interrupted": "interrupted"}.get(last, "ended")


def _steps(newest: Path | None) -> int | None:
    try:
        config: Config | None = files.read_config(newest) if newest else None
    except CheckpointError:  # of another version; the rest can still be shown
        return None
    return config.train.steps if config else None


def _modified(run: Path) -> float:
    return (run / events.FILE).stat().st_mtime
