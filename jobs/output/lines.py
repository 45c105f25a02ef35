"""Lines of a result in UTF-8: to standard output, or to a file that appears whole or not at all."""

import itertools
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from pipeline.corpus.decoding.decompression import COMPRESSIONS
from pipeline.errors import ConfigError
from pipeline.files.storage import whole_file

OTHER_FORMS = (".parquet", ".arrow", ".csv", ".tsv", ".xlsx")
STANDARD = "-"
"""Stands for standard output."""


def check_output(path: str, setting: str, source: str) -> None:
    """Refuse a file that can't be written, or that would take the place of what is read.

    Raises:
        ConfigError: there is no such folder, the file is a folder, the input itself, or named as a
            compressed one or a table.
    """
    if path == STANDARD:
        return
    target = Path(path)
    folder = target.absolute().parent
    if not folder.is_dir():
        raise ConfigError(f"{setting}: there is no folder {folder}; make it first")
    if target.is_dir():
        raise ConfigError(f"{setting}: {path} is a folder; name a file")
    if target.suffix.lower() in OTHER_FORMS:
        raise ConfigError(f"{setting}: {path} would hold lines of JSON; give it another suffix")
    if target.suffix.lower() in COMPRESSIONS:
        raise ConfigError(f"{setting}: {path} would not be compressed; leave {target.suffix} out")
    if target.exists() and Path(source).exists() and target.samefile(source):
        raise ConfigError(f"{setting}: {path} is the input, which would be lost; name another file")


def write(lines: Iterable[str], path: str, setting: str) -> int:
    """Write lines, which have their ends; returns how many.

    A device or a pipe is written as it is; it is not replaced.

    Raises:
        ConfigError: nothing can be written there.
    """
    if path == STANDARD:
        return _print(lines)
    target = Path(os.path.realpath(path))
    whole = target.is_file() or not target.exists()
    found = iter(lines)
    some = list(itertools.islice(found, 1))  # errors of what makes the lines are not those of files
    count = 0
    try:
        with whole_file(target) if whole else target.open("wb") as file:
            for line in itertools.chain(some, found):
                file.write(line.encode("utf-8"))
                count += 1
    except OSError as error:
        raise ConfigError(f"{setting}: {path}: {error.strerror or error}") from error
    return count


def _print(lines: Iterable[str]) -> int:
    """Print lines, whatever the terminal's encoding is, until nobody reads any more."""
    count = 0
    try:
        for line in lines:
            sys.stdout.buffer.write(line.encode("utf-8"))
            count += 1
        sys.stdout.flush()
    except BrokenPipeError:
        # Python would write what is left when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return count
