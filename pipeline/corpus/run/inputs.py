"""The files to train on and those that are held out, with no file in both."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pipeline.corpus.run.names import SHARD
from pipeline.corpus.shards.format import MANIFEST
from pipeline.corpus.text.listing import LINKED_TWICE, input_folder, is_local
from pipeline.corpus.text.sources import (
    LeftOut,
    Listing,
    Source,
    list_sources,
    naming,
    sign_sources,
)
from pipeline.errors import CorpusError
from pipeline.files.storage import filesystem, without_options
from pipeline.settings.corpus import CorpusSettings

OWN_RUN = "in the folder of this run"
OTHER_RUN = "in the folder of another run"
OTHER_CORPUS = "in a corpus that jobs.prepare made"
TWICE = "named by two inputs"
COPY = "of the same name as a file that is read, but for the compression"
CACHE = "what map or filter of Hugging Face's datasets left beside the data"
CACHE_NAME = re.compile(r"(.*)/cache-[0-9a-f]{16}(?:_\d+_of_\d+)?\.arrow")
IN_RUN = re.compile(r"(.+)/(?:vocab\.origin\.json|checkpoints/checkpoint_\d+/[^/]+)")
"""Files that only the folder of a run holds: checkpoints, and the note on its vocabulary."""
READ = ""
"""Reason of what is not left out."""


class Inputs(NamedTuple):
    """The listed inputs of a preparation."""

    sources: Listing
    """Files to train on, and what is left out of them."""
    heldout: Listing = Listing([], [])
    """Files that are held out; their documents are left out of the corpus."""


def list_inputs(
    settings: CorpusSettings, written: Iterable[str] = (), run: str = "", signed: bool = True
) -> Inputs:
    """List `corpus.inputs` and `corpus.heldout`.

    Left out of both are the vocabulary, the user dictionary and what the commands write: it would
    be read as text when the same command runs again. So are the folders of other runs and corpora
    below an input. Left out of the inputs are held-out files, the second name of a file that two
    inputs name or that has hard links, compressed files that lie beside what they were made from,
    and what Hugging Face's `datasets` caches beside its data.

    Args:
        written: further folders and files that the preparation writes.
        run: folder of the run; an input that lies in it is read.
        signed: see `sign_sources`; what is left out is not read.

    Raises:
        CorpusError: see `list_sources`; no file is left to read.
    """
    not_text = {
        "named by corpus.vocab": [settings.vocab],
        "named by corpus.user_dictionary": [settings.user_dictionary],
        "named by corpus.cleaning": [settings.cleaning.flagged_words, settings.cleaning.good_text],
        "written by this command": [settings.output, settings.keep_rejected, *written],
        OWN_RUN: [run],
    }
    reasons = {_real(path): why for why, paths in not_text.items() for path in paths if path}
    for text in (*settings.inputs, *settings.heldout):
        folder = _real(input_folder(text))
        place = _nearest(folder, reasons)
        if place != folder and reasons.get(place) == OWN_RUN:
            reasons[folder] = READ
    heldout = Listing([], [])
    if settings.heldout:
        heldout = _list_apart(settings.heldout, settings, signed, "corpus.heldout", reasons)
        reasons |= {_real(source.path): "named by corpus.heldout" for source in heldout}
    sources = _list_apart(settings.inputs, settings, signed, "corpus.inputs", reasons)
    return Inputs(sources, heldout)


def _list_apart(
    inputs: Sequence[str],
    settings: CorpusSettings,
    signed: bool,
    setting: str,
    reasons: Mapping[str, str],
) -> Listing:
    found = list_sources(inputs, settings, setting)
    named = {_real(input_folder(text)) for text in inputs}
    made = {folder: why for folder, why in _made_folders(found).items() if folder not in named}
    listed = _split(found, {**made, **reasons})
    if not listed:
        lines = "; ".join(listed.left_out_lines())
        raise CorpusError(f"{setting}: no file is left to read. These were left out: {lines}")
    return sign_sources(listed) if signed else listed


def _split(listed: Listing, reasons: Mapping[str, str]) -> Listing:
    """The listing without the files that are among these or in these folders, or there twice.

    Of a folder that is left out whole, the folder is named and not its files.
    """
    kept: dict[str, Source] = {}
    left_out: dict[LeftOut, None] = {}
    contents: set[tuple[int, int]] = set()
    for each in (*listed.left_out, *listed):
        label = each.label if isinstance(each, Source) else each.path
        path = _real(each.path)
        place = _nearest(path, reasons)
        if reason := reasons.get(place, READ):
            left_out[LeftOut(label if place == path else place, reason)] = None
        elif isinstance(each, LeftOut):
            left_out[each] = None
        elif path in kept:
            left_out[LeftOut(label, TWICE)] = None
        elif (content := _shared_content(each)) in contents:
            left_out[LeftOut(label, LINKED_TWICE)] = None
        else:
            kept[path] = each
            contents |= {content} if content else set()
    for reason, find in ((COPY, _copies), (CACHE, _caches)):
        for path in find(kept):
            left_out[LeftOut(kept.pop(path).label, reason)] = None
    return Listing(list(kept.values()), list(left_out))


def _shared_content(source: Source) -> tuple[int, int] | None:
    """What all hard links to a local file share; None if it has one name, or is in a store."""
    system, inner = filesystem(source.path)
    if not is_local(system):
        return None
    with naming(source.label):
        status = os.stat(inner)
    return (status.st_dev, status.st_ino) if status.st_nlink > 1 else None


def _copies(files: Mapping[str, Source]) -> list[str]:
    """The files whose text stands beside them plain, or in another compression.

    Programs for zstd always leave the compressed file where it was, others on demand.
    """
    found: list[str] = []
    names: set[str] = set()
    for path, each in sorted(files.items(), key=lambda item: bool(item[1].compression)):
        name = each.path.rpartition(".")[0] if each.compression else each.path
        if name in names:
            found.append(path)
        names.add(name)
    return found


def _caches(files: Mapping[str, Source]) -> list[str]:
    """The tables that `datasets` keeps of a step, where the data that it began with are there too.

    Its old versions gave the data themselves such a name, without others beside them.
    """
    names = {path: CACHE_NAME.fullmatch(each.path) for path, each in files.items()}
    data = {
        each.path.rpartition("/")[0]
        for path, each in files.items()
        if each.format == "arrow" and not names[path]
    }
    return [path for path, name in names.items() if name and name[1] in data]


def _made_folders(listed: Listing) -> dict[str, str]:
    """The folders of runs and corpora among the listed files, with the reason to leave them out."""
    paths = {_real(each.path) for each in (*listed, *listed.left_out)}
    parts = (path.rpartition("/") for path in paths)
    of_shards = {folder for folder, _, name in parts if SHARD.fullmatch(name)}
    corpora = (folder for folder in of_shards if f"{folder}/{MANIFEST}" in paths)
    runs = (found[1] for path in paths if (found := IN_RUN.fullmatch(path)))
    return dict.fromkeys(corpora, OTHER_CORPUS) | dict.fromkeys(runs, OTHER_RUN)


def _nearest(path: str, places: Mapping[str, str]) -> str:
    """The path, or the nearest folder around it, that is among the places; empty if none is."""
    while path and path not in places:
        path = path.rpartition("/")[0]
    return path


def _real(path: str) -> str:
    """One name for a file, whatever links or URLs lead to it."""
    system, inner = filesystem(path)
    return os.path.realpath(inner) if is_local(system) else without_options(path).rstrip("/")
