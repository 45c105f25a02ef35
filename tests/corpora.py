"""Small corpora of made-up sentences, written as real shards."""

from pathlib import Path

import numpy as np

from pipeline.corpus.records import Sentences
from pipeline.corpus.samples.masks import Maskable, sample_keys, whole_word_masks
from pipeline.corpus.samples.pairs import build_pairs
from pipeline.corpus.samples.vocabulary import vocabulary_sha256
from pipeline.corpus.shards.format import Manifest, write_manifest, write_shard
from pipeline.settings.corpus import MaskingSettings, PairSettings

SPECIALS = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}
LETTERS = [chr(0x4E00 + number) for number in range(60)]


def write_vocabulary(path: Path) -> Path:
    path.write_text("\n".join([*SPECIALS, *LETTERS]) + "\n", "utf-8")
    return path


def write_corpus(
    folder: Path, vocab: Path, documents: int = 40, seed: int = 0, length: int = 48
) -> Path:
    """Documents of sentences in which a word of two characters tells the next one."""
    random = np.random.default_rng(seed)
    first = len(SPECIALS)
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
    pairs = build_pairs(text, PairSettings(), length, SPECIALS["[CLS]"], SPECIALS["[SEP]"], seed)
    size = first + len(LETTERS)
    masks = whole_word_masks(
        pairs.input_ids,
        pairs.word_starts,
        pairs.offsets,
        sample_keys(seed, 0, np.arange(len(pairs.documents), dtype=np.uint64)),
        MaskingSettings(),
        Maskable(SPECIALS["[MASK]"], size, tuple(SPECIALS.values())),
    )
    folder.mkdir(parents=True, exist_ok=True)
    info = write_shard(folder / "shard_00000.arrow", pairs, masks, {}, size)
    write_manifest(
        folder,
        Manifest(
            shards=(info,),
            vocab_sha256=vocabulary_sha256(vocab),
            vocab_size=size,
            special_ids=SPECIALS,
            sequence_length=length,
            masks="static",
        ),
    )
    return folder
