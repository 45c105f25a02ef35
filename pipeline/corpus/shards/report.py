"""The figures of a corpus, from its manifests and samples."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.arrays import evenly_spread
from pipeline.corpus.randomness import draw
from pipeline.corpus.records import Pairs
from pipeline.corpus.samples.masks import count_replacements
from pipeline.corpus.samples.pairs import CONTINUATION, NO_LABEL, OTHER
from pipeline.corpus.shards.reader import ShardFolder, flat_pairs

LONGEST_WORD = 8
"""Words with more tokens are counted by length only, not by text."""
_ROWS_AT_A_TIME = 8192
_TOP = 100
"""How many frequent words and unknown characters are listed."""
Histogram = NDArray[np.int64]


def corpus_report(reader: ShardFolder, tokens: Sequence[str], samples: int) -> dict[str, Any]:
    """Measure a corpus on up to `samples` samples, spread evenly over it.

    Args:
        tokens: the vocabulary, by id.

    Returns:
        Numbers, lists and dicts that JSON can hold. The index into a histogram is the value that
        is counted.
    """
    manifest, manifests = reader.manifest, reader.manifests
    read = evenly_spread(samples, len(reader))
    longest = max(m.sequence_length for m in manifests)
    lengths, word_lengths = np.zeros(longest + 1, np.int64), np.zeros(longest + 1, np.int64)
    masked = np.zeros(longest + 1, np.int64)
    labels, replaced = np.zeros(256, int), np.zeros(3, np.int64)
    token_counts = np.zeros(len(tokens), int)
    words: Counter[tuple[int, ...]] = Counter()
    for first in range(0, len(read), _ROWS_AT_A_TIME):
        rows = reader.rows(read[first : first + _ROWS_AT_A_TIME])
        pairs = flat_pairs(rows)
        lengths += np.bincount(rows.lengths, minlength=longest + 1)
        labels += np.bincount(rows.next_sentence_label, minlength=256)
        token_counts += np.bincount(pairs.input_ids, minlength=len(tokens))
        masked += np.bincount(np.diff(rows.masks.offsets), minlength=longest + 1)
        replaced += count_replacements(pairs, rows.masks, manifest.special_ids["[MASK]"])
        word_lengths += _count_words(pairs, manifest.special_ids, words, longest)
    total = int((lengths * np.arange(longest + 1)).sum())
    chosen = int((masked * np.arange(longest + 1)).sum())
    token_counts[list(manifest.special_ids.values())] = 0
    return {
        "folders": list(reader.folders),
        "vocabulary": {"size": manifest.vocab_size, "sha256": manifest.vocab_sha256},
        "segmenter": manifest.segmenter,
        "counts": _sum_of(m.counts for m in manifests),
        "drops": _sum_of(m.drops for m in manifests),
        "dropped": [
            [reason, text] for m in manifests for reason in m.dropped for text in m.dropped[reason]
        ],
        "boilerplate": sorted(
            ([*item] for m in manifests for item in m.boilerplate), key=lambda item: -item[1]
        ),
        "unknown": [[*item] for item in _sum_of(m.unknown for m in manifests).most_common(_TOP)],
        "samples": len(reader),
        "measured_samples": len(read),
        "tokens": sum(m.tokens for m in manifests),
        "mean_length": total / max(1, len(read)),
        "full_share": float(lengths[longest] / max(1, len(read))),
        "masked_share": chosen / max(1, total),
        "masked_as": {
            name: int(count) / max(1, chosen)
            for name, count in zip(("[MASK]", "random", "itself"), replaced, strict=True)
        },
        "next_sentence": {
            "continuation": int(labels[CONTINUATION]),
            "other": int(labels[OTHER]),
            "no_label": int(labels[NO_LABEL]),
        },
        "vocabulary_used": float((token_counts > 0).sum() / len(tokens)),
        "top_words": [
            ["".join(tokens[i].removeprefix("##") for i in word), count]
            for word, count in sorted(words.items(), key=lambda item: (-item[1], item[0]))[:_TOP]
        ],
        "token_frequencies": np.sort(token_counts[token_counts > 0])[::-1].tolist(),
        "lengths": lengths.tolist(),
        "word_lengths": np.trim_zeros(word_lengths, "b").tolist(),
        "masked_tokens": np.trim_zeros(masked, "b").tolist(),
    }


def _sum_of(counts: Iterable[Mapping[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return total


def _count_words(
    pairs: Pairs, special_ids: Mapping[str, int], words: Counter[tuple[int, ...]], longest: int
) -> Histogram:
    """Add the words, as tuples of ids, to `words`; returns the histogram of their tokens."""
    starts = np.flatnonzero(pairs.word_starts)
    sizes = np.diff(starts, append=len(pairs.input_ids))
    ordinary = ~np.isin(pairs.input_ids[starts], list(special_ids.values()))
    starts, sizes = starts[ordinary], sizes[ordinary]
    histogram = np.bincount(sizes, minlength=longest + 1)
    starts, sizes = starts[sizes <= LONGEST_WORD], sizes[sizes <= LONGEST_WORD]
    keys = sizes.astype(np.uint64)
    for place in range(LONGEST_WORD):
        at = np.flatnonzero(sizes > place)
        keys[at] = draw(keys[at], pairs.input_ids[starts[at] + place])
    _, example, counts = np.unique(keys, return_index=True, return_counts=True)
    for begin, size, count in zip(
        starts[example].tolist(), sizes[example].tolist(), counts.tolist(), strict=True
    ):
        words[tuple(pairs.input_ids[begin : begin + size].tolist())] += count
    return histogram
