"""The console of the verbs."""

from __future__ import annotations

from typing import Any

from rich.console import Console


def plain_console(**options: Any) -> Console:
    """A console that prints text as it is: `[…]` and `:…:` in a path or a corpus are no markup."""
    return Console(soft_wrap=True, markup=False, emoji=False, highlight=False, **options)


def print_error(text: str) -> None:
    """Print to standard error."""
    plain_console(stderr=True).print(text, style="red")
