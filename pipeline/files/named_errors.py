"""Errors of writing that name what could not be written."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

QUOTED = re.compile(r"\(os error (\d+)\)")
"""How libraries in Rust (safetensors, tokenizers) quote an error of the system in their own."""


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Let errors of the system in the block, such as that of a full disk, name a file or folder.

    Raises:
        OSError: also in place of an error of a library that quotes one of the system.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:  # a write knows no name
            error.filename = str(path)
        raise
    except Exception as error:
        if not (found := QUOTED.search(str(error))):
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(path)) from error
