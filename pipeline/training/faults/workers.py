"""Where each rank of a run was started last: messages about a failure name node and process."""

import json
from pathlib import Path
from typing import NamedTuple

from pipeline.files.storage import write_json

WORKERS = "workers.json"


class Worker(NamedTuple):
    """Where a rank runs."""

    host: str
    pid: int


def write_workers(run: Path, found: list[Worker]) -> None:
    """Note where each rank runs; rank 0 calls it before the first step."""
    write_json(run / WORKERS, found)


def read_workers(run: Path) -> dict[int, Worker]:
    """Where each rank ran last."""
    path = run / WORKERS
    if not path.exists():
        return {}
    return {rank: Worker(*row) for rank, row in enumerate(json.loads(path.read_text("utf-8")))}
