"""The files to train on and those that are held out, with no file in both."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pipeline.corpus.text.sources import Source, list_sources
from pipeline.errors import CorpusError
from pipeline.settings.corpus import CorpusSettings

NAMED = 3
"""How many files a line about files that are left out names."""


class Inputs(NamedTuple):
    """The listed inputs of a preparation."""

    sources: Sequence[Source]
    """Files to train on."""
    heldout: Sequence[Source] = ()
    """Files that are held out."""
    left_out: Mapping[str, Sequence[str]] = {}
    """Files under `corpus.inputs` that are not read, by reason."""


def list_inputs(
    settings: CorpusSettings, written: Iterable[str] = (), signed: bool = True
) -> Inputs:
    """List `corpus.inputs` and `corpus.heldout`.

    Left out of both are the vocabulary, the user dictionary and what `jobs.prepare` writes: it
    would be read as text when the same command runs again. Left out of the inputs are held-out
    files.

    Args:
        written: further folders and files that the preparation writes.
        signed: see `list_sources`.

    Raises:
        CorpusError: see `list_sources`; nothing is left to read.
    """
    not_text = {
        "corpus.vocab": [settings.vocab],
        "corpus.user_dictionary": [settings.user_dictionary],
        "a folder or file that this command writes": [
            settings.output,
            settings.keep_rejected,
            *written,
        ],
    }
    reasons = {_real(path): why for why, paths in not_text.items() for path in paths if path}
    heldout: list[Source] = []
    if settings.heldout:
        listed = list_sources(settings.heldout, settings, signed)
        heldout = _split(listed, reasons)[0]
        if not heldout:
            raise CorpusError("corpus.heldout: all of its files are written by this command")
        reasons |= {_real(source.path): "corpus.heldout" for source in heldout}
    listed = list_sources(settings.inputs, settings, signed)
    sources, left_out = _split(listed, reasons)
    if not sources:
        raise CorpusError("corpus.inputs: " + "; ".join(described(left_out)) + ": nothing is left")
    return Inputs(sources, heldout, left_out)


def described(left_out: Mapping[str, Sequence[str]]) -> list[str]:
    """A line for each reason."""
    return [
        f"{len(paths):,} file(s) not read as training text, named by {reason}: "
        + ", ".join(paths[:NAMED])
        + (" …" if len(paths) > NAMED else "")
        for reason, paths in left_out.items()
    ]


def _split(
    sources: Iterable[Source], reasons: Mapping[str, str]
) -> tuple[list[Source], dict[str, list[str]]]:
    """The sources that are neither among these files nor in these folders; the others by reason."""
    kept: list[Source] = []
    left_out: dict[str, list[str]] = {}
    for source in sources:
        path = _real(source.path)
        while path and path not in reasons:
            path = path.rpartition("/")[0]
        if path:
            left_out.setdefault(reasons[path], []).append(source.path)
        else:
            kept.append(source)
    return kept, left_out


def _real(path: str) -> str:
    """One name for a file, whatever links lead to it."""
    return path.rstrip("/") if "://" in path else os.path.realpath(path)
