"""Where stages report what they do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Show = Callable[[str], None]
"""Takes a line that stays."""


class Progress(Protocol):
    """Where stages report what they do."""

    def say(self, line: str) -> None:
        """Take a line that stays."""

    def update(self, line: str, subject: str = "") -> None:
        """Take the newest line on a subject; it may replace the previous one."""

    def stage(self, name: str) -> None:
        """Note that a stage begins."""
