"""Holders of locks: which process holds one, and whether it is gone."""

import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.progress import Say

BEAT_SECONDS = 5.0
"""How often a holder renews its heartbeat."""
STALE_SECONDS = 60.0
"""A lock without a heartbeat for so long belongs to a process that is gone. It is many beats,
because a busy store, or a file system that keeps the times of files in a cache, shows some late."""


def identity() -> dict[str, Any]:
    """This process: its host, its number, and when it began."""
    return {**_place(), "pid": os.getpid(), "started": _started(os.getpid())}


def is_dead(holder: Mapping[str, Any]) -> bool:
    """Whether a process ran on this host and is gone; its number may be another process's now.

    Args:
        holder: its `identity`, with or without other entries.
    """
    return _is_here(holder) and _started(holder.get("pid", 0)) != holder.get("started")


def wait_until_gone(
    look: Callable[[], tuple[Mapping[str, Any] | None, object]],
    silence: Callable[[], float],
    place: str,
    say: Say,
    setting: str = "run.name",
) -> Mapping[str, Any] | None:
    """Return when the holder of a lock is gone; returns the holder, None if there is no lock.

    Args:
        look: gives the holder's `identity`, None without a lock, and its heartbeat: any value that
            changes while the holder lives.
        silence: gives the seconds since the last heartbeat that is known.
        place: of the lock, for the message.
        say: takes a line if it has to wait.
        setting: which names the place, for the message.

    Raises:
        ConfigError: the holder lives.
    """
    holder, first = look()
    beat, told = first, False
    while holder is not None and not is_dead(holder) and silence() < STALE_SECONDS:
        alive = _is_here(holder) and holder.get("pid") != os.getpid()
        if alive or beat != first:
            raise ConfigError(
                f"another command works on this {setting.partition('.')[0]}: process "
                f"{holder.get('pid')} on {holder.get('host')} ({place}); wait "
                f"for its end, or choose another {setting}"
            )
        if not told:
            say(f"waiting up to {STALE_SECONDS:.0f} s for a heartbeat of {holder.get('host')}")
            told = True
        time.sleep(min(1.0, BEAT_SECONDS))
        holder, beat = look()
    return holder


def _place() -> dict[str, Any]:
    """Where numbers of processes are unique: containers may have the name of their host."""
    return {"host": socket.gethostname(), "namespace": os.stat("/proc/self/ns/pid").st_ino}


def _is_here(holder: Mapping[str, Any]) -> bool:
    return holder.items() >= _place().items()


def _started(pid: int) -> str:
    """When a process began, in ticks since the host's start; empty if there is none (Linux)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""
