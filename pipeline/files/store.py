"""Files of a folder in an object store, which may fail for a time."""

import logging
from collections.abc import Callable

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_not_exception_type,
    stop_before_delay,
    wait_exponential,
)

from pipeline.errors import NezhaError, StorageError
from pipeline.files.storage import filesystem

RETRY_SECONDS = 120.0
"""How long what fails is tried again."""
CONTACT_SECONDS = 20.0
"""How long the first contact with the store is tried again."""

logger = logging.getLogger(__name__)


class Store:
    """A folder in an object store, by its URL."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.system, self._inner = filesystem(url)

    def insist(
        self, action: Callable[[], object], failed: str, seconds: float | None = None
    ) -> None:
        """Call an action of the store, again and again while it fails.

        Args:
            failed: what to say of the store if it fails for these seconds.
            seconds: RETRY_SECONDS if not given.

        Raises:
            StorageError: it failed for so long.
            NezhaError: what the action raised; that is no failure of the store.
        """
        tries = Retrying(
            stop=stop_before_delay(RETRY_SECONDS if seconds is None else seconds),
            wait=wait_exponential(max=15.0),
            retry=retry_if_not_exception_type(NezhaError),  # stores raise errors of many types
            before_sleep=self._tell,
            reraise=True,
        )
        try:
            tries(action)
        except NezhaError:
            raise
        except Exception as error:
            raise StorageError(f"{self.url} {failed}: {type(error).__name__}: {error}") from error

    def _tell(self, tried: RetryCallState) -> None:
        assert tried.outcome is not None
        logger.warning("%s: %s; trying again", self.url, tried.outcome.exception())

    def read(self, name: str) -> bytes | None:
        """A file in the store; None if there is none."""
        try:
            self.system.invalidate_cache()
            return self.system.cat_file(self._at(name))
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Write a file in the store."""
        self.system.pipe_file(self._at(name), data)

    def delete(self, name: str) -> None:
        """Delete a file in the store."""
        self.system.rm_file(self._at(name))

    def _at(self, name: str) -> str:
        return f"{self._inner}/{name}"
