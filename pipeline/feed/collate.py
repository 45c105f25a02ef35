"""Samples and their masks as padded batches."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.arrays import Integers
from pipeline.corpus.records import Masks
from pipeline.corpus.samples.pairs import NO_LABEL
from pipeline.corpus.shards.reader import Rows
from pipeline.labels import IGNORED

WIDTH_MULTIPLE = 8
"""Rows are padded to a multiple of this, because tensor cores compute such widths fastest."""


class Batch(NamedTuple):
    """B samples padded to S, the longest rounded up to a multiple of 8; M tokens are masked."""

    input_ids: Integers
    """[B, S] masked."""
    token_type_ids: Integers
    """[B, S] 1 from B's first token to its [SEP]."""
    attention_mask: Integers
    """[B, S] 1 where there is a token."""
    labels: Integers
    """[B, S] original ids where masked, -100 elsewhere."""
    next_sentence_label: Integers
    """[B] 0 continuation, 1 random or swapped, -100 no label."""
    masked_positions: Integers
    """[M] indices into the B * S tokens, ascending."""
    masked_labels: Integers
    """[M] original ids there."""
    samples: NDArray[np.uint64]
    """[B] sample numbers."""
    tokens: int
    """Tokens that are not padding."""
    squares: int
    """Sum of the squared lengths of the samples: pairs of tokens that attend to one another."""
    masked_words: Integers = np.zeros(0, np.int64)
    """[M] ascending number of the word to which each masked token belongs; [0] in training."""
    damaged: int = 0
    """Samples of damaged shards; another sample stands for each, in which nothing is scored."""


BY_SAMPLE = (
    *("input_ids", "token_type_ids", "attention_mask", "labels"),
    *("next_sentence_label", "samples"),
)
"""Fields of a batch with a row for each sample."""


def collate(
    rows: Rows, masks: Masks, samples: Integers, pad_id: int, first: int, last: int
) -> Batch:
    """Rows first … last - 1 as a padded batch, with their masks applied."""
    lengths = rows.lengths[first:last]
    width = -(-int(lengths.max()) // WIDTH_MULTIPLE) * WIDTH_MULTIPLE
    places = np.arange(width, dtype=np.int64)
    inside = places < lengths[:, None]
    input_ids = np.full(inside.shape, pad_id, np.int64)
    given = rows.input_ids[first:last, :width]  # may end at the longest sample
    np.copyto(input_ids[:, : given.shape[1]], given, where=inside[:, : given.shape[1]])
    in_b = (places >= rows.segment_b_start[first:last, None]) & inside

    chosen = slice(masks.offsets[first], masks.offsets[last])
    row = np.repeat(np.arange(last - first), np.diff(masks.offsets[first : last + 1]))
    masked_positions = row * width + masks.positions[chosen]
    masked_labels = input_ids.ravel()[masked_positions]
    labels = np.full(inside.shape, IGNORED, np.int64)
    labels.ravel()[masked_positions] = masked_labels
    input_ids.ravel()[masked_positions] = masks.ids[chosen]

    next_sentence = rows.next_sentence_label[first:last].astype(np.int64)
    next_sentence[next_sentence == NO_LABEL] = IGNORED
    return Batch(
        input_ids=input_ids,
        token_type_ids=in_b.astype(np.int64),
        attention_mask=inside.astype(np.int64),
        labels=labels,
        next_sentence_label=next_sentence,
        masked_positions=masked_positions,
        masked_labels=masked_labels,
        samples=samples[first:last].astype(np.uint64),
        tokens=int(lengths.sum()),
        squares=int(lengths @ lengths),
    )


def number_words(batch: Batch, word_starts: NDArray[np.bool_]) -> Batch:
    """The batch with `masked_words`, which separate neighbouring masked words.

    Args:
        batch: B samples padded to S.
        word_starts: [B, S] true where a word begins. Values in the padding do not matter, because
            every sample begins with a word.
    """
    return batch._replace(masked_words=word_starts.cumsum(dtype=np.int64)[batch.masked_positions])


def first_samples(batch: Batch, number: int) -> Batch:
    """The first samples of a batch for training, as wide as before."""
    lengths = batch.attention_mask[:number].sum(axis=1)
    inside = batch.masked_positions < number * batch.input_ids.shape[1]
    return batch._replace(
        **{name: getattr(batch, name)[:number] for name in BY_SAMPLE},
        masked_positions=batch.masked_positions[inside],
        masked_labels=batch.masked_labels[inside],
        tokens=int(lengths.sum()),
        squares=int(lengths @ lengths),
    )


def unscored(batch: Batch) -> Batch:
    """The batch with everything removed that a loss or a score counts."""
    return batch._replace(
        labels=np.full_like(batch.labels, IGNORED),
        next_sentence_label=np.full_like(batch.next_sentence_label, IGNORED),
        masked_positions=batch.masked_positions[:0],
        masked_labels=batch.masked_labels[:0],
        masked_words=batch.masked_words[:0],
    )
