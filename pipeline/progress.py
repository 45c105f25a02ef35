"""Where work reports what it does. The command line writes it to a terminal or a log."""

from collections.abc import Callable
from typing import Protocol

Say = Callable[[str], None]
"""Takes a line."""


class Progress(Protocol):
    """Takes lines that stay, and lines that the next one replaces."""

    def say(self, line: str) -> None:
        """Take a line that stays."""

    def update(self, line: str, subject: str = "") -> None:
        """Take the newest line on a subject; it may replace the previous one, or be left out."""

    def stage(self, name: str) -> None:
        """Note that a stage begins."""
