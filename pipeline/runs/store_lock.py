"""The lock of a run in its object store: one command at a time works on the run."""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

from pipeline.background import repeated
from pipeline.errors import ConfigError
from pipeline.process import identity, is_dead
from pipeline.progress import Say
from pipeline.runs.store_copy import LOCK, Mirror

BEAT_SECONDS = 5.0
STALE_SECONDS = 30.0
"""A lock that has not changed for so long belongs to a command that is gone."""
SETTLE_SECONDS = 1.0
"""Of two commands that take a lock at the same time, the last writer has it after that time."""
CONTACT_SECONDS = 20.0
"""How long the first contact with the store is tried again."""

logger = logging.getLogger(__name__)


@contextmanager
def locked(mirror: Mirror, say: Say, stop: Callable[[], None]) -> Iterator[threading.Event]:
    """Hold the run's lock in the store; yields an event that is set if another command took it.

    `stop` is called, in another thread, when that is found.

    Raises:
        ConfigError: another command works on the run.
        StorageError: the store does not answer.
    """
    own = {**identity(), "token": uuid.uuid4().hex}
    lost, beats = threading.Event(), count(1)

    def holder() -> dict[str, Any]:
        data = mirror.read(LOCK)
        return json.loads(data) if data else {}

    def write(beat: int) -> None:
        mirror.write(LOCK, json.dumps({**own, "beat": beat}).encode())

    def acquire() -> None:
        _wait_until_gone(holder, mirror.url, say)
        write(0)

    def confirm() -> None:
        if holder().get("token") != own["token"]:
            raise ConfigError(f"{mirror.url}: another command has just begun to work on this run")

    mirror.insist(acquire, "cannot be used", CONTACT_SECONDS)
    time.sleep(SETTLE_SECONDS)
    mirror.insist(confirm, "cannot be used", CONTACT_SECONDS)

    def beat() -> None:
        try:
            if holder().get("token") == own["token"]:
                write(next(beats))
            elif not lost.is_set():
                lost.set()
                stop()
        except Exception as error:  # the store may come back
            logger.warning("%s: no sign of life could be written: %s", mirror.url, error)

    try:
        with repeated(beat, BEAT_SECONDS, "store-lock"):
            yield lost
    finally:
        if not lost.is_set():
            try:
                mirror.delete(LOCK)
            except Exception as error:
                logger.warning("%s: the lock could not be deleted: %s", mirror.url, error)


def _wait_until_gone(holder: Callable[[], dict[str, Any]], url: str, say: Say) -> None:
    """Return when nobody holds the lock; raise ConfigError if its holder gives signs of life."""
    first, deadline = holder(), time.monotonic() + STALE_SECONDS
    if not first or is_dead(first):
        return
    say(f"waiting up to {STALE_SECONDS:.0f} s for a sign of life of {first['host']}")
    while time.monotonic() < deadline:
        time.sleep(min(1.0, BEAT_SECONDS))
        now = holder()
        if not now:
            return
        if now != first:
            raise ConfigError(
                f"another command works on {url}: process {now['pid']} on {now['host']}; wait for "
                "its end, or choose another run.name"
            )
