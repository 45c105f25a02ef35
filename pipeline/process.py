"""Which process holds a lock, and whether it is gone."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def identity() -> dict[str, Any]:
    """This process: its host, its number, and when it began."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}


def is_dead(holder: Mapping[str, Any]) -> bool:
    """Whether a process ran on this host and is gone; its number may be another process's now.

    Args:
        holder: its `identity`, with or without other entries.
    """
    if holder.get("host") != socket.gethostname():
        return False
    return _started(holder["pid"]) != holder.get("started")


def _started(pid: int) -> str:
    """When a process began, in ticks since the host's start; empty if there is none (Linux)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""
