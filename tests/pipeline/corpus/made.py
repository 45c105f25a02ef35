"""Texts and corpora for tests. Token ids are random, or count the tokens of the text."""

from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from pipeline.corpus.arrays import offsets_of
from pipeline.corpus.records import Masks, Pairs, Sentences
from pipeline.corpus.samples.masks import Maskable, whole_word_masks
from pipeline.corpus.samples.pairs import build_pairs
from pipeline.corpus.shards.format import Manifest, write_manifest, write_shard
from pipeline.settings.corpus import MaskingSettings, PairSettings

VOCABULARY = Maskable(mask_id=4, vocab_size=1000, special_ids=(0, 1, 2, 3, 4))
SPECIAL_IDS = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}


def text_of(documents: list[list[list[int]]], numbers: list[int], first_id: int = 5) -> Sentences:
    """Documents given as sentences of word lengths; ids count up from `first_id`."""
    words = [size for document in documents for sentence in document for size in sentence]
    tokens = sum(words)
    word_starts = np.zeros(tokens, np.bool_)
    word_starts[offsets_of(np.array(words, int))[:-1]] = True
    return Sentences(
        np.arange(first_id, first_id + tokens, dtype=np.int32),
        word_starts,
        offsets_of(np.array([sum(s) for document in documents for s in document], int)),
        offsets_of(np.array([len(document) for document in documents], int)),
        np.array(numbers, np.uint64),
    )


@st.composite
def texts(draw, max_words=60):
    """Texts of up to six documents; some are empty, some have the same number (a cut document)."""
    sentence = st.lists(st.integers(1, 5), max_size=max_words)
    documents = draw(st.lists(st.lists(sentence, max_size=8), max_size=6))
    count = len(documents)
    return text_of(documents, draw(st.lists(st.integers(0, 5), min_size=count, max_size=count)))


def random_text(seed: int, documents: int, first: int = 0) -> Sentences:
    """A text with the lengths of a real one, and random ids of the test vocabulary."""
    random = np.random.default_rng(seed)
    made = [
        [random.integers(1, 4, random.integers(3, 20)).tolist() for _ in range(sentences)]
        for sentences in random.integers(2, 12, documents)
    ]
    text = text_of(made, list(range(first, first + documents)))
    ids = random.integers(5, VOCABULARY.vocab_size, len(text.ids)).astype(np.int32)
    return text._replace(ids=ids)


def write_corpus(
    folder: Path | str, *shards: tuple[Pairs, Masks | None], **changes: object
) -> Manifest:
    """Write samples with their masks as shards, and the manifest, whose fields may be changed."""
    values: dict[str, Any] = {
        "vocab_sha256": "v",
        "vocab_size": VOCABULARY.vocab_size,
        "special_ids": SPECIAL_IDS,
        "sequence_length": 64,
        "masks": "none" if any(masks is None for _, masks in shards) else "static",
        **changes,
    }
    tags, size = {"vocab_sha256": values["vocab_sha256"]}, values["vocab_size"]
    infos = [
        write_shard(f"{folder}/shard-{number:05}.arrow", pairs, masks, tags, size)
        for number, (pairs, masks) in enumerate(shards)
    ]
    manifest = Manifest(shards=tuple(infos), **values)
    write_manifest(folder, manifest)
    return manifest


def make_corpus(
    folder: Path, seed: int = 0, shards: int = 3, static: bool = True, vocab_sha256: str = "v"
) -> Manifest:
    """A small finished corpus of samples of up to 64 tokens."""
    made: list[tuple[Pairs, Masks | None]] = []
    for number in range(shards):
        text = random_text(seed * 1000 + number, 12, first=number * 100)
        pairs = build_pairs(text, PairSettings(), 64, 2, 3, seed)
        masks = whole_word_masks(pairs, MaskingSettings(), VOCABULARY, seed)
        made.append((pairs, masks if static else None))
    return write_corpus(folder, *made, vocab_sha256=vocab_sha256)
