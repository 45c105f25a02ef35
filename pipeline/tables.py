"""Tables as text."""

Table = list[list[str]]
"""Rows of cells; the first row is the heading."""


def markdown_table(table: Table) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table]
    return "\n".join([lines[0], "|" + "---|" * len(table[0]), *lines[1:]])
