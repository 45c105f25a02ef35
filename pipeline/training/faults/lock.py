"""One driver at a time works on a run: a file with host, process and heartbeat in its folder."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError

FILE = "lock.json"
BEAT_SECONDS = 10.0
STALE_SECONDS = 120.0
"""A lock without a heartbeat for so long belongs to a host that is gone."""


@contextmanager
def hold(run: Path) -> Iterator[None]:
    """Hold the run's lock; the lock of a process that is dead or silent is taken over.

    Raises:
        ConfigError: another process works on the run.
    """
    run.mkdir(parents=True, exist_ok=True)
    path = run / FILE
    own = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
    while True:
        try:
            with path.open("x", encoding="utf-8") as file:
                json.dump(own, file)
            break
        except FileExistsError:
            _take_over(path)
    ended = threading.Event()
    thread = threading.Thread(target=_beat, args=(path, ended), name="lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        path.unlink(missing_ok=True)


def is_held(run: Path) -> bool:
    """Whether a process that lives works on the run."""
    return _holder(run / FILE) is not None


def _holder(path: Path) -> dict[str, Any] | None:
    """The process that holds a lock; None if there is no lock, or its process is gone."""
    try:
        holder = json.loads(path.read_text("utf-8") or "{}")
        silent = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return None
    here = holder.get("host") == socket.gethostname()
    dead = here and not Path(f"/proc/{holder.get('pid', 0)}").exists()
    return None if dead or silent > STALE_SECONDS else holder


def _take_over(path: Path) -> None:
    """Delete the lock if its holder is gone."""
    if holder := _holder(path):
        raise ConfigError(
            f"another command works on this run: process {holder.get('pid')} on "
            f"{holder.get('host')} ({path}); wait for its end, or choose another run.name. The "
            f"lock of a lost host ends after {STALE_SECONDS:.0f} s without a sign of life"
        )
    path.unlink(missing_ok=True)


def _beat(path: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        try:
            os.utime(path)
        except OSError:  # the storage may come back
            continue
