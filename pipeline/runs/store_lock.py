"""The lock of a run in its object store: one command at a time works on the run."""

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
from pipeline.files import holders
from pipeline.progress import Say
from pipeline.runs.store_copy import LOCK, StoreCopy

SETTLE_SECONDS = 1.0
"""Of two commands that take a lock at the same time, the last writer has it after that time."""
CONTACT_SECONDS = 20.0
"""How long the first contact with the store is tried again."""

logger = logging.getLogger(__name__)


@contextmanager
def locked(copy: StoreCopy, say: Say, stop: Callable[[], None]) -> Iterator[threading.Event]:
    """Hold the run's lock in the store; yields an event that is set if another command took it.

    `stop` is called, in another thread, when that is found.

    Raises:
        ConfigError: another command works on the run.
        StorageError: the store does not answer.
    """
    own = {**holders.identity(), "token": uuid.uuid4().hex}
    lost, beats = threading.Event(), count(1)

    def holder() -> dict[str, Any] | None:
        data = copy.read(LOCK)
        return json.loads(data) or None if data else None

    def is_own() -> bool:
        return (holder() or {}).get("token") == own["token"]

    def write(beat: int) -> None:
        copy.write(LOCK, json.dumps({**own, "beat": beat}).encode())

    def acquire() -> None:
        begun = time.monotonic()

        def look() -> tuple[dict[str, Any] | None, object]:
            found = holder()
            return found, found  # its number of beats changes

        holders.wait_until_gone(look, lambda: time.monotonic() - begun, copy.url, say)
        write(0)

    def confirm() -> None:
        if not is_own():
            raise ConfigError(f"{copy.url}: another command has just begun to work on this run")

    copy.insist(acquire, "cannot be used", CONTACT_SECONDS)
    time.sleep(SETTLE_SECONDS)
    copy.insist(confirm, "cannot be used", CONTACT_SECONDS)

    def beat() -> None:
        try:
            if is_own():
                write(next(beats))
            elif not lost.is_set():
                lost.set()
                stop()
        except Exception as error:  # the store may come back
            logger.warning("%s: no heartbeat could be written: %s", copy.url, error)

    try:
        with repeated(beat, holders.BEAT_SECONDS, "store-lock"):
            yield lost
    finally:
        if not lost.is_set():
            try:
                copy.delete(LOCK)
            except Exception as error:
                logger.warning("%s: the lock could not be deleted: %s", copy.url, error)
