"""The disk that holds a run's folder, as seen by a process that may run on another node."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pipeline.files.urls import is_url

T = TypeVar("T")


class Disk:
    """A disk of this node, or one that all nodes share: its files are used as they are."""

    remote = False
    """Whether the folder is on another node, and files must be fetched and sent."""

    def call(self, function: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """Call a function on a node that has the folder.

        Raises:
            OSError: that node does not answer.
            Exception: what the function raises.
        """
        return function(*arguments, **named)

    def fetch(self, path: Path) -> Path:
        """A file or folder of that disk, on this node."""
        return path

    def own(self, path: Path) -> Path:
        """Where a file or folder of the offered folder is made on this node, before `send`."""
        return path

    def there(self, path: Path) -> Path:
        """The path, on that disk, of the file or folder that has this path on this node."""
        return path

    def send(self, path: Path) -> None:
        """Move a file or folder that was made here to its place on that disk, whole."""

    def drop(self, path: Path) -> None:
        """Delete what `fetch` has copied."""


OWN = Disk()
"""The disk of a process that sees the folder itself."""


def fetch_named(disk: Disk, given: str) -> str:
    """What a user named, on this node: a path is fetched, a URL stays."""
    return given if is_url(given) else str(disk.fetch(Path(given)))
