"""The console of the verbs."""

from __future__ import annotations

import io
import sys
from typing import Any

from rich.console import Console

for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
        # A terminal or a log in GBK or Latin-1 lacks some of the characters.
        stream.reconfigure(errors="backslashreplace")


def plain_console(**options: Any) -> Console:
    """A console that prints text as it is: `[…]` and `:…:` in a path or a corpus are no markup."""
    return Console(soft_wrap=True, markup=False, emoji=False, highlight=False, **options)


def print_error(text: str) -> None:
    """Print to standard error."""
    plain_console(stderr=True).print(text, style="red")
