"""The run's own record: `metrics.jsonl`, one line for each logged step, and its progress lines."""

import json
import math
from collections.abc import Iterator, Mapping
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipeline.files import journal
from pipeline.files.disk import OWN, Disk
from pipeline.files.storage import whole_file

FILE = "metrics.jsonl"


class Figures(BaseModel, extra="allow"):
    """The shape of a line: a step, and figures by their names."""

    __pydantic_extra__: dict[str, float]
    step: float


def each(folder: Path) -> Iterator[dict[str, float]]:
    """The records one by one, oldest first."""
    return journal.each(folder / FILE, Figures)


def read(folder: Path, *figures: str) -> list[dict[str, float]]:
    """All records, oldest first; with `figures` those that have one of them, without others.

    A record has up to a hundred figures: those of a long run would take gigabytes of memory.
    """
    if not figures:
        return list(each(folder))
    kept = {"step", *figures}
    return [
        {name: record[name] for name in record if name in kept}
        for record in each(folder)
        if len(kept & record.keys()) > 1
    ]


def newest(folder: Path, prefix: str = "") -> dict[str, float] | None:
    """The last record, if there is one; with a prefix, of those with a figure of such a name."""
    records = journal.newest_first(folder / FILE, Figures)
    return next((each for each in records if any(key.startswith(prefix) for key in each)), None)


def last_losses(folder: Path, number: int) -> list[tuple[int, float]]:
    """Step and loss of the last logged steps whose loss is finite, oldest first."""
    records = journal.newest_first(folder / FILE, Figures)
    finite = (each for each in records if math.isfinite(each.get("loss", math.nan)))
    return [(int(each["step"]), each["loss"]) for each in islice(finite, number)][::-1]


def rewind(folder: Path, step: int) -> None:
    """Delete the records after a step: a resumed run writes them again."""
    if (last := newest(folder)) and last["step"] <= step:
        return
    with whole_file(folder / FILE) as file:
        for record in each(folder):
            if record["step"] <= step:
                file.write(json.dumps(record).encode() + b"\n")


class Recorder:
    """Rank 0 writes to the run's own file and to MLflow (URI, run id); other ranks write nothing.

    A run that continues from `step` first deletes its later records, and sends MLflow those of the
    earlier ones that it missed. While the storage is full or does not answer, records stay in
    memory and are written later; training goes on.
    """

    def __init__(
        self, rank: int, folder: Path, step: int, tracking: tuple[str, str] | None, disk: Disk = OWN
    ) -> None:
        self._file = journal.Appender(folder / FILE, disk) if rank == 0 else None
        self._sender: Any = None
        self._disk, self._copy = disk, folder / FILE
        if self._file:
            disk.call(rewind, folder, step)
            # A database on another node's disk gets all at the end, from the command.
            if tracking and not (disk.remote and tracking[0].startswith("sqlite")):
                # A run without tracking, on one machine, does not need MLflow installed.
                from pipeline.tracking.metric_sender import MetricSender

                self._copy = disk.fetch(folder / FILE)
                self._sender = MetricSender(*tracking, earlier=each(self._copy.parent))

    def write(self, step: int, values: dict[str, float]) -> None:
        if self._file:
            self._file.add([{"step": step, **values}])
        if self._sender:
            self._sender.log(step, values)

    def close(self) -> None:
        if self._file:
            self._file.add()
        if self._sender:
            self._sender.close()
            self._disk.drop(self._copy)


def progress_line(record: Mapping[str, float], steps: int) -> str:
    """One record as a line for a person who watches the run."""
    parts = [f"step {record['step']:.0f}/{steps}"]
    if "heldout_mlm_loss" in record:
        parts.append(f"held-out MLM {record['heldout_mlm_loss']:.3f}")
        parts.append(f"accuracy {record['heldout_mlm_accuracy']:.1%}")
        if "heldout_word_accuracy" in record:
            parts[-1] += f", of words {record['heldout_word_accuracy']:.1%}"
        if "heldout_nsp_accuracy" in record:
            parts.append(f"NSP {record['heldout_nsp_accuracy']:.1%}")
        return " · ".join(parts)
    parts.append(f"loss {record['loss']:.3f}")
    parts.append(f"MLM {record['mlm_loss']:.3f} ({record['mlm_accuracy']:.1%})")
    if "nsp_accuracy" in record:
        parts.append(f"NSP {record['nsp_accuracy']:.1%}")
    if "tokens_per_second" in record:
        parts.append(f"{record['tokens_per_second']:,.0f} tokens/s")
        left = str(timedelta(seconds=round(record["seconds_left"])))  # such as 0:01:01
        parts.append(f"{left.removeprefix('0:').removeprefix('0')} left")
    return " · ".join(parts)
