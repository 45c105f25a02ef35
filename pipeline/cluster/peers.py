"""What a worker of a group raises where the connection to another one breaks."""

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import TrainingError


class PeerFailed(TrainingError):
    """Another worker of the group reports the cause; this one only lost its connection to it."""


@contextmanager
def reported_by_others() -> Iterator[None]:
    """Raise PeerFailed where a connection breaks: another worker has ended, and has the reason."""
    try:
        yield
    except RuntimeError as error:
        raise PeerFailed(f"the connection to other workers broke: {error}") from error
