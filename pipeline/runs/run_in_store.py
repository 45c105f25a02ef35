"""A run whose storage is in an object store: a local folder, and its copy that outlives the node.

The command that works on the run holds the run's lock in the store. It first downloads what the
store has and this node does not, works on the local folder, and uploads what has changed every few
seconds and at its end. One that only reads the run downloads without the lock.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.background import repeated
from pipeline.errors import ConfigError, StorageError
from pipeline.files.store import CONTACT_SECONDS
from pipeline.files.store_lock import locked, stop_this_process
from pipeline.files.urls import is_url
from pipeline.paths import RunPaths
from pipeline.progress import Say
from pipeline.runs.store_copy import StoreCopy
from pipeline.settings.config import Config

PUSH_SECONDS = 10.0

logger = logging.getLogger(__name__)


@contextmanager
def hold(config: Config, say: Say) -> Iterator[Callable[[], None]]:
    """Hold the run in its object store, and keep its copy there; nothing for a local storage.

    If another command takes the run over, this process is asked to stop.

    Args:
        say: takes a line if something takes time.

    Yields:
        a function that brings the copy there up to date at once.

    Raises:
        ConfigError: another command works on the run, or several processes would hold it.
        StorageError: the store does not answer, or did not take the last changes.
    """
    if not is_url(config.run.storage):
        yield lambda: None
        return
    copy = _copy_of(config)
    with locked(copy, say, stop_this_process) as lost, _pushing(copy, lost) as finish:
        yield finish


def fetch(config: Config) -> None:
    """Make the local folder as new as the object store, for reading; nothing for a local storage.

    Another command may work on the run meanwhile. If this node worked on it last, its folder is the
    newest as it is.

    Raises:
        StorageError: the store does not answer.
    """
    if is_url(config.run.storage):
        copy = _copy_of(config)
        copy.insist(copy.refresh, "could not be read", CONTACT_SECONDS)


def upload(config: Config, path: Path) -> None:
    """Upload a file that a command made in a run which it does not hold."""
    if is_url(config.run.storage):
        copy = _copy_of(config)
        name = path.relative_to(copy.folder).as_posix()
        copy.insist(lambda: copy.write(name, path.read_bytes()), f"did not take {path}")


def _copy_of(config: Config) -> StoreCopy:
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ConfigError(
            f"run.storage={config.run.storage}: the processes of torchrun need a folder that all "
            "of them see; jobs.pretrain takes a URL"
        )
    url = f"{config.run.storage.rstrip('/')}/{config.run.name}"
    return StoreCopy(RunPaths.of(config).run, url)


@contextmanager
def _pushing(copy: StoreCopy, lost: threading.Event) -> Iterator[Callable[[], None]]:
    """Pull; push every PUSH_SECONDS in the background, and at the end."""
    copy.insist(copy.pull, "could not be read")
    one_at_a_time = threading.Lock()

    def push() -> None:
        with one_at_a_time:
            copy.push()

    def try_to_push() -> None:
        if lost.is_set():
            return
        try:
            push()
        except Exception as error:  # the next one, or the last one, may succeed
            logger.warning("%s: an upload failed and is tried again: %s", copy.url, error)

    def finish() -> None:
        if lost.is_set():
            raise StorageError(
                f"{copy.url}: another command has taken this run over, because no heartbeat of "
                f"this one reached the store; what is newer here is in {copy.folder}"
            )
        copy.insist(push, f"did not take the newest files, which are in {copy.folder}")

    try:
        with repeated(try_to_push, PUSH_SECONDS, "uploads"):
            yield finish
    except BaseException:
        try:
            finish()
        except StorageError as error:  # the first error says more, also by its exit status
            logger.error("%s", error)
        raise
    finish()
