"""The lock of a folder in an object store: one command at a time works on it."""

import json
import logging
import os
import signal
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
from pipeline.files.store import CONTACT_SECONDS, Store
from pipeline.progress import Say

FILE = "lock.json"
"""The lock of a run."""
SETTLE_SECONDS = 1.0
"""Of two commands that take a lock at the same time, the last writer has it after that time."""

logger = logging.getLogger(__name__)


def stop_this_process() -> None:
    """Send SIGTERM to this process: its results could not be uploaded any more."""
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def locked(
    store: Store, say: Say, stop: Callable[[], None], name: str = FILE, setting: str = "run.name"
) -> Iterator[threading.Event]:
    """Hold a folder's lock in the store; yields an event that is set if another command took it.

    `stop` is called, in another thread, when that is found.

    Args:
        name: of the lock's file.
        setting: which names the folder, for messages.

    Raises:
        ConfigError: another command works on the folder.
        StorageError: the store does not answer.
    """
    own = {**holders.identity(), "token": uuid.uuid4().hex}
    lost, beats = threading.Event(), count(1)

    def holder() -> dict[str, Any] | None:
        data = store.read(name)
        return json.loads(data) or None if data else None

    def is_own() -> bool:
        return (holder() or {}).get("token") == own["token"]

    def write(beat: int) -> None:
        store.write(name, json.dumps({**own, "beat": beat}).encode())

    def acquire() -> None:
        begun = time.monotonic()

        def look() -> tuple[dict[str, Any] | None, object]:
            found = holder()
            return found, found  # its number of beats changes

        holders.wait_until_gone(look, lambda: time.monotonic() - begun, store.url, say, setting)
        write(0)

    def confirm() -> None:
        if not is_own():
            raise ConfigError(f"{store.url}: another command has just begun to work there")

    store.insist(acquire, "cannot be used", CONTACT_SECONDS)
    time.sleep(SETTLE_SECONDS)
    store.insist(confirm, "cannot be used", CONTACT_SECONDS)

    def beat() -> None:
        try:
            if is_own():
                write(next(beats))
            elif not lost.is_set():
                lost.set()
                stop()
        except Exception as error:  # the store may come back
            logger.warning("%s: no heartbeat could be written: %s", store.url, error)

    try:
        with repeated(beat, holders.BEAT_SECONDS, "store-lock"):
            yield lost
    finally:
        if not lost.is_set():
            try:
                store.delete(name)
            except Exception as error:
                logger.warning("%s: the lock could not be deleted: %s", store.url, error)
