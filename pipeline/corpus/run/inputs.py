"""The files to train on and those that are held out, with no file in both."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pipeline.corpus.text.sources import LeftOut, Listing, Source, list_sources
from pipeline.errors import CorpusError
from pipeline.settings.corpus import CorpusSettings


class Inputs(NamedTuple):
    """The listed inputs of a preparation."""

    sources: Listing
    """Files to train on, and what is left out of them."""
    heldout: Listing
    """Files that are held out."""


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
        "named by corpus.vocab": [settings.vocab],
        "named by corpus.user_dictionary": [settings.user_dictionary],
        "written by this command": [
            settings.output,
            settings.keep_rejected,
            *written,
        ],
    }
    reasons = {_real(path): why for why, paths in not_text.items() for path in paths if path}
    heldout = Listing([], [])
    if settings.heldout:
        heldout = _split(list_sources(settings.heldout, settings, signed), reasons)
        if not heldout:
            raise CorpusError("corpus.heldout: all of its files are written by this command")
        reasons |= {_real(source.path): "named by corpus.heldout" for source in heldout}
    sources = _split(list_sources(settings.inputs, settings, signed), reasons)
    if not sources:
        lines = "; ".join(sources.left_out_lines())
        raise CorpusError(f"corpus.inputs: nothing is left to read. Left out are {lines}")
    return Inputs(sources, heldout)


def _split(listed: Listing, reasons: Mapping[str, str]) -> Listing:
    """The listing without the sources that are among these files or in these folders."""
    kept: list[Source] = []
    left_out = list(listed.left_out)
    for source in listed:
        path = _real(source.path)
        while path and path not in reasons:
            path = path.rpartition("/")[0]
        if path:
            left_out.append(LeftOut(source.label, reasons[path]))
        else:
            kept.append(source)
    return Listing(kept, left_out)


def _real(path: str) -> str:
    """One name for a file, whatever links lead to it."""
    return path.rstrip("/") if "://" in path else os.path.realpath(path)
