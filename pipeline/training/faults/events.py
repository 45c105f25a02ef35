"""The run's own record of faults: `faults.jsonl`, one line for each restart, skip or stop."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from pipeline.files import journal

FILE = "faults.jsonl"
Kind = Literal[
    "start",
    "restart",
    "waiting",
    "preempted",
    "rewind",
    "shrink",
    "skipped",
    "spike",
    "damaged",
    "storage",
    "stop",
    "interrupted",
]
"""What happened. Progress lines, `jobs.runs` and the report show the text of any kind;
`runs.report.MARKS` has those that its curves show."""


class Event(BaseModel):
    """The shape of a line; facts with a default are those of some kinds alone."""

    time: float
    kind: str
    text: str
    attempt: int = 0
    step: int = 0
    checkpoint: int = 0
    batches_skipped: int = 0
    workers: int = 0
    data: dict[str, Any] = {}
    micro_batch: int = 0
    configured: int = 0


def record(run: Path, kind: Kind, text: str, **facts: Any) -> None:
    """Add an event to the run's record.

    Args:
        kind: see `Kind`.
        text: a sentence for the person who watches the run.
        facts: numbers that a program may want; must fit JSON.
    """
    run.mkdir(parents=True, exist_ok=True)
    journal.append(run / FILE, {"time": time.time(), "kind": kind, "text": text, **facts})


def clock(event: Mapping[str, Any]) -> str:
    """The local date and time of an event."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["time"]))


def newest(run: Path) -> dict[str, Any] | None:
    """The last event, if there is one."""
    return next(journal.newest_first(run / FILE, Event), None)


def read(run: Path) -> list[dict[str, Any]]:
    """All events, oldest first."""
    return journal.read(run / FILE, Event)
