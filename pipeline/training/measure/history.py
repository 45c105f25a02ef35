"""The run's own record: `metrics.jsonl`, one line for each logged step, and its progress lines."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipeline.files import journal
from pipeline.files.disk import OWN, Disk
from pipeline.files.storage import write_whole

FILE = "metrics.jsonl"


class Figures(BaseModel, extra="allow"):
    """The shape of a line: a step, and figures by their names."""

    __pydantic_extra__: dict[str, float]
    step: float


def read(folder: Path) -> list[dict[str, float]]:
    """All records, oldest first."""
    return journal.read(folder / FILE, Figures)


def rewind(folder: Path, step: int) -> None:
    """Delete the records after a step: a resumed run writes them again."""
    kept = [record for record in read(folder) if record["step"] <= step]
    lines = "".join(json.dumps(record) + "\n" for record in kept)
    write_whole(folder / FILE, lines.encode())


def send_all(records: Iterable[Mapping[str, float]], sender: Any) -> None:
    """Hand records to a MetricSender."""
    for record in records:
        sender.log(int(record["step"]), {key: record[key] for key in record if key != "step"})


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
        if self._file:
            disk.call(rewind, folder, step)
            # A database on another node's disk gets all at the end, from the command.
            if tracking and not (disk.remote and tracking[0].startswith("sqlite")):
                # A run without tracking, on one machine, does not need MLflow installed.
                from pipeline.tracking.metric_sender import MetricSender

                self._sender = MetricSender(*tracking)
                send_all(disk.call(read, folder), self._sender)

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
        minutes, seconds = divmod(round(record["seconds_left"]), 60)
        parts.append(f"{minutes}:{seconds:02} left")
    return " · ".join(parts)
