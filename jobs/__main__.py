"""The list of verbs: `python -m jobs`."""

import ast
import re
import sys
from pathlib import Path

from jobs.output.console import plain_console, print_error

NO_VERBS = {"__init__", "__main__", "command"}


def main() -> int:
    """Print what each verb does; returns the exit status, 2 if something else was asked for."""
    if others := {*sys.argv[1:]} - {"-h", "--help"}:
        print_error(f"error: {', '.join(sorted(others))}: write a verb as python -m jobs.VERB")
        return 2
    lines = ["python -m jobs.VERB --config FILE [a.b=c …]; --help of a verb explains its settings"]
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem not in NO_VERBS:
            described = ast.get_docstring(ast.parse(path.read_bytes())) or ""
            lines.append(f"  {path.stem:<9} {re.split(r': `|[.]$', described.splitlines()[0])[0]}")
    plain_console().print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
