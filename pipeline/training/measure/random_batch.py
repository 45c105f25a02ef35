"""A batch to measure a network with, before there is a corpus."""

from __future__ import annotations

import numpy as np

from pipeline.feed.collate import Batch
from pipeline.labels import IGNORED
from pipeline.settings.config import Config
from pipeline.training.start.network import vocabulary_size


def random_batch(config: Config, samples: int) -> Batch:
    """Full sequences of random tokens with the share of masks that training has."""
    corpus, draw = config.corpus, np.random.default_rng(0)
    length = corpus.sequence_length
    tokens = samples * length
    ids = draw.integers(5, vocabulary_size(config), (samples, length))
    masked = np.sort(draw.choice(tokens, max(1, int(corpus.masking.probability * tokens)), False))
    labels = np.full_like(ids, IGNORED)
    labels.ravel()[masked] = ids.ravel()[masked]
    return Batch(
        input_ids=ids,
        token_type_ids=np.zeros_like(ids),
        attention_mask=np.ones_like(ids),
        labels=labels,
        next_sentence_label=draw.integers(0, 2, samples),
        masked_positions=masked,
        masked_labels=ids.ravel()[masked],
        samples=np.arange(samples, dtype=np.uint64),
        tokens=tokens,
        squares=tokens * length,
    )
