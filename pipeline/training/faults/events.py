"""The run's own record of faults: `faults.jsonl`, one line for each restart, skip or stop."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

FILE = "faults.jsonl"


def record(run: Path, kind: str, text: str, **facts: Any) -> None:
    """Add an event to the run's record.

    Args:
        run: the run's folder.
        kind: `restart`, `stop`, `interrupted`, …
        text: a sentence for the person who watches the run.
        facts: numbers that a program may want; must fit JSON.
    """
    run.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"time": time.time(), "kind": kind, "text": text, **facts})
    with (run / FILE).open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def read(run: Path) -> list[dict[str, Any]]:
    """All events, oldest first, except a last line that a crash cut off."""
    path = run / FILE
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").split("\n")[:-1]]
