"""What token frequencies alone predict: the loss that a masked-language model has to beat."""

from collections.abc import Iterable

import numpy as np

from pipeline.corpus.arrays import evenly_spread
from pipeline.corpus.shards.reader import ShardFolder
from pipeline.feed.collate import Batch

ROWS_AT_A_TIME = 8192
MOST_ROWS = 1_000_000
"""Frequencies are counted on this many samples at most, spread evenly."""


def unigram_loss(shards: ShardFolder, heldout: Iterable[Batch]) -> float:
    """Cross-entropy (nats a token) of masked held-out tokens under training-set frequencies.

    Frequencies are those of all tokens of the training shards, with one added to each entry of the
    vocabulary, so that a token that never occurred costs much but not infinitely much.
    """
    counts = np.ones(shards.manifest.vocab_size)
    numbers = evenly_spread(MOST_ROWS, len(shards))
    for first in range(0, len(numbers), ROWS_AT_A_TIME):
        rows = shards.rows(numbers[first : first + ROWS_AT_A_TIME], words=False, masks=False)
        inside = np.arange(rows.input_ids.shape[1]) < rows.lengths[:, None]
        counts += np.bincount(rows.input_ids[inside], minlength=len(counts))
    counts[list(shards.manifest.special_ids.values())] = 1
    labels = np.concatenate([batch.masked_labels for batch in heldout])
    return float(np.mean(np.log(counts.sum()) - np.log(counts[labels])))
