"""Samples for the eye: words, masks and what stands in their place."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

from pipeline.corpus.records import Document, Masks, Pairs
from pipeline.corpus.samples.masks import Maskable, sample_keys, whole_word_masks
from pipeline.corpus.samples.pairs import CONTINUATION, OTHER
from pipeline.corpus.samples.vocabulary import read_vocabulary, vocabulary_sha256
from pipeline.corpus.shards.format import Manifest
from pipeline.corpus.shards.reader import Rows, ShardFolder
from pipeline.corpus.text import parsing
from pipeline.corpus.text.reading import End, read_unit
from pipeline.corpus.text.sources import Unit, list_sources, plan_units
from pipeline.errors import CorpusError, VocabularyError
from pipeline.settings.config import Config
from pipeline.settings.corpus import CorpusSettings

LEGEND = Text.assemble(
    "words are parted by spaces; ",
    ("原", "bold red"),
    " hidden by [MASK], ",
    ("原→随", "bold yellow"),
    " by a random token, ",
    ("原", "bold green"),
    " to be predicted but shown",
)


def show_sample(
    pairs: Pairs,
    masks: Masks,
    row: int,
    number: int,
    tokens: Sequence[str],
    vocabulary: Maskable,
    source: str,
) -> Text:
    """One sample as coloured text.

    Args:
        pairs, masks: as read; `row` is the sample's place in them.
        number: its number in the corpus, for the heading.
        tokens: the vocabulary, by id.
        source: where document A stands.
    """
    begin, end = pairs.offsets[row : row + 2].tolist()
    b = int(pairs.segment_b_start[row])
    has_b = b < end - begin
    chosen = slice(*masks.offsets[row : row + 2])
    seen = dict(zip(masks.positions[chosen].tolist(), masks.ids[chosen].tolist(), strict=True))
    label = {CONTINUATION: "B follows A", OTHER: "B is random or swapped"}
    text = Text.assemble(
        (f"sample {number}", "bold"),
        f" · document {int(pairs.documents[row]):016x}, {source}",
        f" · {end - begin} tokens, {len(seen)} masked · ",
        label.get(int(pairs.next_sentence_label[row]), "no B, no label"),
    )
    segments = [("A", 1, b - 1)] + ([("B", b, end - begin - 1)] if has_b else [])
    for name, first, last in segments:
        text.append(f"\n  {name} ", style="bold")
        for position in range(first, last):
            original = int(pairs.input_ids[begin + position])
            if pairs.word_starts[begin + position] and position > first:
                text.append(" ")
            text.append_text(_token(original, seen.get(position), tokens, vocabulary))
    return text


def _token(original: int, seen: int | None, tokens: Sequence[str], vocabulary: Maskable) -> Text:
    word = tokens[original].removeprefix("##")
    if seen is None:
        return Text(word, style="dim" if original in vocabulary.special_ids else "")
    if seen == vocabulary.mask_id:
        return Text(word, style="bold red")
    if seen == original:
        return Text(word, style="bold green")
    return Text(f"{word}→{tokens[seen].removeprefix('##')}", style="bold yellow")


def read_tokens(vocab: str | Path, manifest: Manifest) -> list[str]:
    """The vocabulary that a corpus was made with, by id.

    Raises:
        VocabularyError: the file is missing, malformed, or another one.
    """
    if vocabulary_sha256(vocab) != manifest.vocab_sha256:
        raise VocabularyError(
            f"{vocab}: not the vocabulary that the shards were made with; set corpus.vocab to it"
        )
    return list(read_vocabulary(vocab))


def masks_of(
    rows: Rows, pairs: Pairs, numbers: NDArray[np.int64], manifest: Manifest, config: Config
) -> Masks:
    """The shards' own masks; where they hold none, those that the feed draws in the first epoch."""
    if manifest.masks == "static":
        return rows.masks
    keys = sample_keys(config.run.seed, 0, numbers.astype(np.uint64))
    columns = pairs.input_ids, pairs.word_starts, pairs.offsets
    return whole_word_masks(*columns, keys, config.corpus.masking, manifest.maskable)


def sources_of(
    reader: ShardFolder, numbers: NDArray[np.int64], documents: NDArray[np.uint64]
) -> dict[int, str]:
    """Where documents stand, as `file:byte` (Parquet: `file:row`), by their number.

    A shard's name tells the work unit that it was made of; the unit's inputs are read again.

    Args:
        numbers: [N] samples.
        documents: [N] their documents.

    Returns:
        What was found: nothing of inputs that are gone.
    """
    manifests = dict(zip(reader.folders, reader.manifests, strict=True))
    found: dict[int, str] = {}
    for number, document in zip(numbers, documents.tolist(), strict=True):
        ((folder, shard),) = reader.shards_of(number[None])
        if document not in found:
            found |= dict(_documents_of(manifests[folder], shard.name, document))
    return found


def _documents_of(manifest: Manifest, shard: str, wanted: int) -> Iterator[tuple[int, str]]:
    try:
        settings = CorpusSettings.model_validate(manifest.settings)
        unit_number, part = map(int, shard.removesuffix(".arrow").split("-")[1:])
    except ValueError:
        return  # a folder that prepare did not make
    for inputs in (settings.inputs, settings.heldout):
        # One of the two is what this folder was made of.
        with contextlib.suppress(CorpusError, OSError, IndexError):
            unit = _units(inputs, settings)[unit_number]
            for item in read_unit(unit, settings):
                if isinstance(item, End) or item.part != part:
                    continue
                for block in item.blocks:
                    for document in parsing.documents(block, settings.text_field):
                        if isinstance(document, Document) and document.number == wanted:
                            yield document.number, document.source
                            return


@functools.lru_cache(maxsize=2)
def _units(inputs: tuple[str, ...], settings: CorpusSettings) -> list[Unit]:
    return plan_units(list_sources(inputs, settings), settings)


def choose_samples(count: int, of: int, seed: int) -> NDArray[np.int64]:
    """Up to `count` sample numbers at random, ascending."""
    random = np.random.default_rng(seed)
    return np.sort(random.choice(of, size=min(count, of), replace=False))
