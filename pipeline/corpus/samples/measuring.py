"""Counts of samples by which a preparation judges whether training can work on them."""

from collections import Counter

import numpy as np

from pipeline.corpus.arrays import evenly_spread, offsets_of, ranges
from pipeline.corpus.records import Pairs
from pipeline.corpus.samples.masks import Maskable, maskable_words, masked_indices, whole_word_masks
from pipeline.corpus.samples.pairs import CONTINUATION, OTHER
from pipeline.settings.corpus import MaskingSettings

MEASURED_SAMPLES = 1024
"""Samples of a chunk whose masks are measured, spread evenly: few enough to cost no time."""
LONGEST_WORD = 9
"""Words with this many tokens or more are counted together."""


def measure(pairs: Pairs, masking: MaskingSettings, maskable: Maskable, seed: int) -> Counter[str]:
    """Counts of labels, and of masks as `whole_word_masks` draws them with this seed.

    Returns:
        `continued` and `other` second segments; `measured` samples, and how many of them have no
        word that may be masked; their `tokens` and `masked_tokens`; `words_N` of N tokens, and
        `masked_words_N`.
    """
    labels = np.bincount(pairs.next_sentence_label, minlength=256)
    rows = evenly_spread(MEASURED_SAMPLES, len(pairs.documents))
    some = _take(pairs, rows)
    masks = whole_word_masks(some, masking, maskable, seed, samples=rows)
    masked = np.zeros(len(some.input_ids), np.bool_)
    masked[masked_indices(some, masks)] = True
    starts, sizes, samples = maskable_words(
        some.input_ids, some.word_starts, some.offsets, maskable
    )
    sizes = sizes.clip(max=LONGEST_WORD)
    words = np.bincount(sizes, minlength=LONGEST_WORD + 1)
    hit = np.bincount(sizes[masked[starts]], minlength=LONGEST_WORD + 1)
    found = {
        "continued": int(labels[CONTINUATION]),
        "other": int(labels[OTHER]),
        "measured": len(rows),
        "without_words": len(rows) - len(np.unique(samples)),
        "tokens": len(masked),
        "masked_tokens": len(masks.positions),
    }
    for size in range(1, LONGEST_WORD + 1):
        found |= {f"words_{size}": int(words[size]), f"masked_words_{size}": int(hit[size])}
    return Counter(found)


def _take(pairs: Pairs, rows: np.ndarray) -> Pairs:
    """Some of the samples."""
    lengths = np.diff(pairs.offsets)[rows]
    tokens = ranges(pairs.offsets[rows], lengths)
    return Pairs(
        pairs.input_ids[tokens],
        pairs.word_starts[tokens],
        offsets_of(lengths),
        pairs.segment_b_start[rows],
        pairs.next_sentence_label[rows],
        pairs.documents[rows],
    )
