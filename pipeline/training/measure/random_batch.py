"""A batch to measure a network with, before there is a corpus."""

from __future__ import annotations

import math

import numpy as np

from pipeline.feed.collate import Batch
from pipeline.labels import IGNORED
from pipeline.settings.config import Config
from pipeline.training.start.network import vocabulary_size


def random_batch(config: Config, samples: int, mean_length: float = math.inf) -> Batch:
    """Random tokens with the share of masks that training has.

    Args:
        config: gives the length, the share of masks and the vocabulary.
        samples: of the batch.
        mean_length: tokens of a sample. One sample is full, because a batch is padded to its
            longest sample where attention needs that; the others share the rest.
    """
    corpus, draw = config.corpus, np.random.default_rng(0)
    width = corpus.sequence_length
    rest = (samples * min(mean_length, width) - width) / max(1, samples - 1)
    lengths = np.full(samples, max(1, round(rest)))
    lengths[0] = width
    inside = np.arange(width) < lengths[:, None]
    places = np.flatnonzero(inside)
    masked = draw.choice(places, max(1, int(corpus.masking.probability * len(places))), False)
    masked.sort()
    ids = draw.integers(5, vocabulary_size(config), inside.shape)
    labels = np.full_like(ids, IGNORED)
    labels.ravel()[masked] = ids.ravel()[masked]
    return Batch(
        input_ids=ids,
        token_type_ids=np.zeros_like(ids),
        attention_mask=inside.astype(np.int64),
        labels=labels,
        next_sentence_label=draw.integers(0, 2, samples),
        masked_positions=masked,
        masked_labels=ids.ravel()[masked],
        samples=np.arange(samples, dtype=np.uint64),
        tokens=len(places),
        squares=int(lengths @ lengths),
    )
