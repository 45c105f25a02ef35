"""Progress on a terminal as one live line for each subject, elsewhere as a line now and then."""

import time

from rich.console import Console
from rich.status import Status
from rich.text import Text

QUIET_SECONDS = 30.0
"""Between two lines on a subject where no terminal rewrites them."""


class ConsoleProgress:
    """Writes what the stages report to a console."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = None
        self._newest: dict[str, str] = {}
        self._written: dict[str, float] = {}

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self._console.print(f"   {line}")

    def update(self, line: str, subject: str = "") -> None:
        """Show the newest line on a subject in place of the one before."""
        text = f"{subject}: {line}" if subject else line
        if self._console.is_terminal:
            self._newest[subject] = text
            if self._status is None:
                self._status = self._console.status("")
                self._status.start()
            self._status.update(Text("\n  ".join(self._newest.values())))
        elif time.monotonic() - self._written.get(subject, -QUIET_SECONDS) >= QUIET_SECONDS:
            self._written[subject] = time.monotonic()
            self.say(text)

    def stage(self, name: str) -> None:
        """Print the name of a stage that begins; the live lines of the last one go."""
        self.close()
        self._console.print(f"── {name}")

    def close(self) -> None:
        """End the live lines."""
        if self._status:
            self._status.stop()
            self._status = None
        self._newest.clear()
        self._written.clear()
