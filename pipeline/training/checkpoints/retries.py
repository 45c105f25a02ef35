"""What is tried again while the storage fails."""

import logging
from collections.abc import Callable
from typing import TypeVar

from tenacity import Retrying, before_sleep_log, retry_if_exception_type, stop_after_delay
from tenacity.wait import wait_exponential

T = TypeVar("T")
logger = logging.getLogger(__name__)


def retried(action: Callable[[], T], seconds: float) -> T:
    """Act, and try again for so long while the storage is full or does not answer.

    Raises:
        OSError: it did not answer in time.
    """
    attempts = Retrying(
        retry=retry_if_exception_type(OSError),
        stop=stop_after_delay(seconds),
        wait=wait_exponential(max=15),
        before_sleep=before_sleep_log(logger, logging.WARNING),
        reraise=True,
    )
    return attempts(action)
