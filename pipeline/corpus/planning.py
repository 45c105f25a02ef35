"""What a preparation would read and do, and what is refused before it reads anything."""

import importlib.metadata
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers

from pipeline.corpus.cleaning import languages, quality
from pipeline.corpus.cleaning.cleaner import Cleaner
from pipeline.corpus.run import output_folder
from pipeline.corpus.run.inputs import Inputs
from pipeline.corpus.samples.segmentation import Segmenter, load_segmenter, uncut_words
from pipeline.corpus.samples.user_dictionary import read_user_dictionary
from pipeline.corpus.samples.vocabulary import read_vocabulary, vocabulary_sha256
from pipeline.corpus.text.sources import SHOWN, Listing, Source
from pipeline.corpus.text.units import Unit, plan_units
from pipeline.errors import ConfigError
from pipeline.files.hashing import hash_of
from pipeline.files.urls import is_url
from pipeline.settings.corpus import CorpusSettings

FORMAT = 14
"""To be raised when the same text and settings would give other shards."""
EXCLUDED_FROM_FINGERPRINT: dict[str, Any] = {
    **dict.fromkeys(("inputs", "heldout", "output", "vocab", "vocab_size"), True),
    **dict.fromkeys(("user_dictionary", "workers", "keep_rejected", "max_bad_share"), True),
    "dedup": {"memory_megabytes"},
    "cleaning": {"flagged_words", "good_text"},
}
"""Settings that do not change shards, or whose content is in the fingerprint already."""


class ReadPlan(NamedTuple):
    """What a preparation would read and do."""

    sources: Listing
    units: list[Unit]
    fingerprint: str
    vocab_sha256: str
    segmenter: str
    heldout: Sequence[Source] = ()
    """Files whose documents are left out of the training text."""
    keep_rejected: str = ""
    """Where dropped text is to be kept; empty if it is not kept."""


def check(settings: CorpusSettings, output: str | Path, vocab: str | Path | None) -> None:
    """Refuse what can be refused before any input is read.

    Args:
        vocab: None if it will be trained.

    Raises:
        CorpusError: the output folder, or that of the dropped text, holds files of others.
        VocabularyError: see `read_vocabulary`.
        ConfigError: an unknown segmenter or language, a bad user dictionary or list of flagged
            words, a package that is not installed.
    """
    folder, rejected = absolute(output), settings.keep_rejected
    inside = f"{rejected}/".startswith(f"{folder}/")
    around = f"{folder}/".startswith(f"{rejected}/")
    if rejected and (inside or around):
        raise ConfigError(
            f"corpus.keep_rejected: {rejected} is inside the folder of the shards, {folder}, or "
            "holds it; name a folder apart from it"
        )
    output_folder.check_output(folder, rejected)
    text_libraries(settings, ())
    quality.content_hashes(settings.cleaning)
    if words := settings.cleaning.flagged_words:
        quality.flagged_pattern(words, Cleaner(settings.cleaning).clean)
    languages.check(settings.cleaning.languages)
    _segmenter(settings)
    if vocab:
        read_vocabulary(vocab)


def plan(settings: CorpusSettings, vocab: str | Path, seed: int, inputs: Inputs) -> ReadPlan:
    """Cut the signed inputs into units and compute the fingerprint; writes nothing.

    The held-out files count only if `dedup.heldout_documents` is set.

    Raises:
        CorpusError: an input that can't be cut, such as a damaged Parquet file.
        VocabularyError: see `read_vocabulary`.
        ConfigError: an unknown segmenter.
    """
    segmenter = _segmenter(settings).identity
    sources = inputs.sources
    heldout = inputs.heldout if settings.dedup.heldout_documents else ()
    vocab_sha256 = vocabulary_sha256(vocab)
    made_from = {
        "format": FORMAT,
        "seed": seed,
        "vocab": vocab_sha256,
        "segmenter": segmenter,
        "libraries": text_libraries(settings, sources),
        "quality": quality.content_hashes(settings.cleaning),
        "sources": [(source.name, source.format, source.signature) for source in sources],
        "heldout": [(source.format, source.signature) for source in heldout],
        "settings": settings.of_shards().model_dump(mode="json", exclude=EXCLUDED_FROM_FINGERPRINT),
    }
    digest = hash_of(made_from)
    return ReadPlan(
        sources,
        plan_units(sources, settings),
        digest,
        vocab_sha256,
        segmenter,
        heldout,
        settings.keep_rejected,
    )


def unused_words(settings: CorpusSettings) -> list[str]:
    """A warning of words of the user dictionary that the segmenter cuts to pieces, if there are."""
    if not settings.user_dictionary:
        return []
    words = uncut_words(settings.segmenter, settings.user_dictionary)
    if not words:
        return []
    shown = ", ".join(map(repr, words[:SHOWN])) + " …" * (len(words) > SHOWN)
    return [
        f"{len(words):,} words of corpus.user_dictionary have no effect, because "
        f"{settings.segmenter} cuts them to pieces or they hold no two Han characters side by "
        f"side: {shown}; a higher frequency helps against the former, but no word can hold signs "
        "or spaces"
    ]


def reads(sources: Listing) -> dict[str, object]:
    """How many files and megabytes are read, and which files are left out."""
    size = sum(source.size for source in sources)
    left_out = "\n".join(sources.left_out_lines()) or "nothing"
    return {"read": f"{len(sources)} file(s), {size / 1e6:,.1f} MB", "left out": left_out}


def absolute(path: str | Path) -> str:
    """A path that workers understand, whose working directory differs; a URL is not changed."""
    return str(path).rstrip("/") if is_url(str(path)) else os.path.abspath(path)


def text_libraries(settings: CorpusSettings, sources: Sequence[Source]) -> dict[str, str]:
    """Versions of what shapes the text beside our own code, as far as it is used.

    Raises:
        ConfigError: a setting needs a package that is not installed.
    """
    cleaning = settings.cleaning
    dump = any(source.format == "wikidump" for source in sources)
    used = {
        ("ftfy", "ftfy"): cleaning.mojibake and "corpus.cleaning.mojibake",
        ("opencc", "opencc-python-reimplemented"): cleaning.simplify and "corpus.cleaning.simplify",
        ("py3langid", "py3langid"): cleaning.languages and "corpus.cleaning.languages",
        ("mwparserfromhell", "mwparserfromhell"): dump and "corpus.format: wikidump",
    }
    # White space, letters, case and NFKC are those of Python's Unicode tables.
    versions = {"tokenizers": tokenizers.__version__, "unicode": unicodedata.unidata_version}
    for (module, package), setting in used.items():
        if not setting:
            continue
        if not (distributions := importlib.metadata.packages_distributions().get(module)):
            raise ConfigError(
                f"{setting} needs the package {package}, which is not installed: "
                f"pip install -c constraints.txt {package}"
            )
        versions |= {name: importlib.metadata.version(name) for name in distributions}
    return versions


def _segmenter(settings: CorpusSettings) -> Segmenter:
    if settings.user_dictionary:
        read_user_dictionary(settings.user_dictionary, Cleaner(settings.cleaning).clean)
    return load_segmenter(settings.segmenter, settings.user_dictionary)
