"""Tables on the terminal; nothing in them is cut off, as a path or figure would lose its use."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Column, Table


def table(title: str, rows: Mapping[str, object]) -> Table:
    """A two-column table of names and values."""
    result = Table(title=title, title_justify="left", show_header=False)
    result.add_column()
    result.add_column(overflow="fold")
    for name, value in rows.items():
        result.add_row(str(name), str(value))
    return result


def grid(rows: Sequence[Sequence[str]], **options: Any) -> Table:
    """A table of rows of texts, of which the first one has the names of the columns."""
    head, *others = rows
    result = Table(*(Column(name, overflow="fold") for name in head), **options)
    for row in others:
        result.add_row(*row)
    return result
