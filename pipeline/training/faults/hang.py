"""A worker that makes no step for too long writes its stacks and ends, so that it is restarted."""

import faulthandler
import shutil
import time
from pathlib import Path

STACKS = "stacks"


class Watchdog:
    """Ends this process unless `beat` is called in time.

    Python's faulthandler waits in a thread of its own, which needs no interpreter lock, so it also
    ends a process that waits in a collective operation for a rank that hangs. A stopped process
    (SIGSTOP) writes nothing: the other ranks end, and Ray replaces all of them.
    """

    def __init__(self, run: Path, rank: int, seconds: float) -> None:
        (run / STACKS).mkdir(parents=True, exist_ok=True)
        self._file = (run / STACKS / f"rank_{rank}.txt").open("w", encoding="utf-8")
        self._seconds = seconds
        self.beat()

    def beat(self, extra: float = 0.0) -> None:
        """Begin to wait anew, `extra` seconds longer for work that may rightly take so long."""
        faulthandler.dump_traceback_later(self._seconds + extra, exit=True, file=self._file)

    def close(self) -> None:
        faulthandler.cancel_dump_traceback_later()
        self._file.close()


def clear(run: Path) -> None:
    """Rename the stacks of a failed attempt, so that they are not taken for the next one's."""
    if waiting_ranks(run):
        (run / STACKS).rename(run / f"{STACKS}_{int(time.time())}")
    shutil.rmtree(run / STACKS, ignore_errors=True)


def take(run: Path) -> dict[str, bytes]:
    """Remove the stacks that were written in a folder, and return them by the files' names."""
    files = (run / STACKS).glob("rank_*.txt")
    found = {file: data for file in files if (data := file.read_bytes())}
    for file in found:
        file.unlink()
    return {file.name: data for file, data in found.items()}


def waiting_ranks(run: Path) -> set[int]:
    """The ranks that ended because they waited too long; their stacks are in the run's folder."""
    files = (run / STACKS).glob("rank_*.txt")
    return {int(file.stem.rpartition("_")[2]) for file in files if file.stat().st_size}
