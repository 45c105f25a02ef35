"""The console of the verbs."""

import io
import os
import sys
from typing import Any

from rich.console import Console

for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
        # A terminal or a log in GBK or Latin-1 lacks some of the characters.
        stream.reconfigure(errors="backslashreplace")


class _Console(Console):
    """Shows nothing more when nobody reads it: Ctrl-C ends `tee` too, and a run goes on to a
    checkpoint.
    """

    def on_broken_pipe(self) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


def plain_console(**options: Any) -> Console:
    """A console that prints text as it is: `[…]` and `:…:` in a path or a corpus are no markup."""
    return _Console(soft_wrap=True, markup=False, emoji=False, highlight=False, **options)


def print_error(text: str) -> None:
    """Print to standard error."""
    plain_console(stderr=True).print(text, style="red")
