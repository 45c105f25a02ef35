"""What token frequencies alone predict: the loss that a masked-language model has to beat."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pipeline.corpus.shards.reader import ShardFolder
from pipeline.feed.batches import Batch

BLOCK = 8192


def unigram_loss(shards: str | Path, heldout: Iterable[Batch]) -> float:
    """Cross-entropy (nats a token) of masked held-out tokens under training-set frequencies.

    Frequencies are those of all tokens of the training shards, with one added to each entry of the
    vocabulary, so that a token never seen costs much but not everything.
    """
    folder = ShardFolder(shards)
    counts = np.ones(folder.manifest.vocab_size)
    for first in range(0, len(folder), BLOCK):
        block = np.arange(first, min(first + BLOCK, len(folder)))
        rows = folder.rows(block, words=False, masks=False)
        inside = np.arange(rows.input_ids.shape[1]) < rows.lengths[:, None]
        counts += np.bincount(rows.input_ids[inside], minlength=len(counts))
    counts[list(folder.manifest.special_ids.values())] = 1
    labels = np.concatenate([batch.masked_labels for batch in heldout])
    return float(np.mean(np.log(counts.sum()) - np.log(counts[labels])))
