"""Choosing samples of a corpus to be shown, and their tokens and masks."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.records import Masks, Pairs
from pipeline.corpus.samples.masks import whole_word_masks
from pipeline.corpus.samples.vocabulary import read_vocabulary, vocabulary_sha256
from pipeline.corpus.shards.format import Manifest
from pipeline.corpus.shards.reader import Rows
from pipeline.errors import VocabularyError
from pipeline.settings.config import Config


def read_tokens(vocab: str | Path, manifest: Manifest) -> list[str]:
    """The vocabulary that a corpus was made with, by id.

    Raises:
        VocabularyError: the file is missing, malformed, or another vocabulary.
    """
    if vocabulary_sha256(vocab) != manifest.vocab_sha256:
        raise VocabularyError(
            f"{vocab}: not the vocabulary that the shards were made with; set corpus.vocab to the "
            "vocab.txt that they were made with"
        )
    return list(read_vocabulary(vocab))


def masks_of(
    rows: Rows,
    pairs: Pairs,
    numbers: NDArray[np.int64],
    manifests: Sequence[Manifest],
    config: Config,
) -> Masks:
    """The masks that training reads: the shards' own, or those that the feed draws at first.

    They are drawn if the settings say so, or if shards hold none.
    """
    masking, seed = config.corpus.masking, config.run.seed
    if masking.mode == "static" and all(each.masks == "static" for each in manifests):
        return rows.masks
    return whole_word_masks(pairs, masking, manifests[0].maskable, seed, samples=numbers)


def choose_samples(count: int, of: int, seed: int) -> NDArray[np.int64]:
    """Up to `count` random numbers of `of` samples, ascending."""
    random = np.random.default_rng(seed)
    return np.sort(random.choice(of, size=min(count, of), replace=False))
