"""Small corpora of artificial sentences, written as real shards."""

from pathlib import Path

import numpy as np

from pipeline.corpus.records import Sentences
from pipeline.corpus.samples.masks import Maskable, whole_word_masks
from pipeline.corpus.samples.pairs import build_pairs
from pipeline.corpus.samples.vocabulary import vocabulary_sha256
from pipeline.settings.corpus import MaskingSettings, PairSettings
from tests.pipeline.corpus import made
from tests.pipeline.corpus.made import SPECIAL_IDS

LETTERS = [chr(0x4E00 + number) for number in range(60)]


def write_vocabulary(path: Path) -> Path:
    path.write_text("\n".join([*SPECIAL_IDS, *LETTERS]) + "\n", "utf-8")
    return path


def write_corpus(
    folder: str | Path, vocab: Path, documents: int = 40, seed: int = 0, length: int = 48
) -> str | Path:
    """Documents of sentences in which each word of two characters determines the next one."""
    random = np.random.default_rng(seed)
    first = len(SPECIAL_IDS)
    chains = np.arange(len(LETTERS)).reshape(-1, 2)
    sentences = []
    for _ in range(documents * 6):
        words = (random.integers(0, len(chains)) + np.arange(random.integers(3, 8))) % len(chains)
        sentences.append(chains[words].reshape(-1) + first)
    lengths = [len(sentence) for sentence in sentences]
    ids = np.concatenate(sentences).astype(np.int32)
    text = Sentences(
        ids,
        np.tile([True, False], len(ids) // 2),
        np.concatenate([[0], np.cumsum(lengths)]),
        np.arange(0, len(sentences) + 1, 6),
        np.arange(documents, dtype=np.uint64),
    )
    pairs = build_pairs(
        text, PairSettings(), length, SPECIAL_IDS["[CLS]"], SPECIAL_IDS["[SEP]"], seed
    )
    size = first + len(LETTERS)
    vocabulary = Maskable(SPECIAL_IDS["[MASK]"], size, tuple(SPECIAL_IDS.values()))
    masks = whole_word_masks(pairs, MaskingSettings(), vocabulary, seed)
    made.write_corpus(
        folder,
        (pairs, masks),
        vocab_sha256=vocabulary_sha256(vocab),
        vocab_size=size,
        sequence_length=length,
    )
    return folder
