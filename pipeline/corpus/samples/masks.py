"""Whole-word masks, drawn for many samples at once.

The words of a sample are laid on a circle in random order, each with an arc as long as its number
of tokens. A window, as long as the budget, begins at a random point; the words that begin in it are
masked. So every word, long or short, is masked with the same probability: the budget divided by the
length of the circle. Filling a budget with the words that still fit would mask long words too
rarely: at 128 tokens, one of eight tokens in 10.8 % of the cases and one of one token in 17.5 %.

Every random number is a hash of (sample key, position in the sample), so the masks of a sample
depend neither on the worker that draws them nor on the other samples in the batch.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.arrays import offsets_of, ranges
from pipeline.corpus.randomness import UINT64, draw, key_of
from pipeline.corpus.records import Masks, Pairs
from pipeline.settings.corpus import MaskingSettings

_SAMPLES_AT_A_TIME = 1024
"""Samples drawn together: few enough for the CPU's cache, and for 16 bits of a sort key."""
_ORDER, _NGRAMS, _KIND, _WINDOW = (key_of(stream) for stream in range(4))
"""Random streams of one sample: order of words, n-gram lengths, replacements, begin of the window.
"""


class Maskable(NamedTuple):
    """What masking needs to know about a vocabulary."""

    mask_id: int
    vocab_size: int
    special_ids: tuple[int, ...]
    """Ids that are never masked and never used as a random replacement."""


def sample_keys(seed: int, epoch: int | NDArray[np.integer], samples: UINT64) -> UINT64:
    """[N] key of each sample's random streams; `epoch` is one number, or one for each sample."""
    epochs = np.broadcast_to(np.asarray(epoch), np.shape(samples))
    keys = draw(np.broadcast_to(key_of(seed), np.shape(samples)), epochs)
    return draw(keys, samples)


def at_progress(settings: MaskingSettings, done: float) -> MaskingSettings:
    """The settings where a share `done` of the training is over (1 from its end on).

    The share of masked tokens changes linearly from `probability` to `final_probability`.
    """
    first, last = settings.probability, settings.final_probability
    if last is None:
        return settings
    return settings.model_copy(update={"probability": first + (last - first) * min(1.0, done)})


def whole_word_masks(
    pairs: Pairs,
    settings: MaskingSettings,
    vocabulary: Maskable,
    seed: int,
    epoch: int | NDArray[np.integer] = 0,
    samples: NDArray[np.integer] | None = None,
) -> Masks:
    """Choose words of N samples and the ids that the model sees in their place.

    Words are masked whole; without `whole_words` each token counts as a word.

    The budget of a sample is that of `budgets`. It is the mean number of masked tokens over many
    draws; one draw differs from it by less than the longest word or n-gram, because words are
    masked whole. If `max_predictions` is set, no sample has more masked tokens: where words would
    exceed it, the shortest ones are left out, which lowers the rate of long words least.

    Args:
        pairs: samples of at most 65,535 tokens, each of which begins with a word.
        seed, epoch, samples: identify the random streams. `epoch` is one number or [N]; `samples`
            are the [N] sample numbers, by default 0 … N - 1.
    """
    numbers = np.arange(len(pairs.offsets) - 1) if samples is None else samples
    keys = sample_keys(seed, epoch, numbers.astype(np.uint64))
    drawn = [no_masks(0)]
    for first in range(0, len(keys), _SAMPLES_AT_A_TIME):
        bounds = pairs.offsets[first : first + _SAMPLES_AT_A_TIME + 1]
        ids = pairs.input_ids[bounds[0] : bounds[-1]]
        starts = pairs.word_starts[bounds[0] : bounds[-1]]
        some = keys[first : first + _SAMPLES_AT_A_TIME]
        drawn.append(_draw_masks(ids, starts, bounds - bounds[0], some, settings, vocabulary))
    return Masks(
        np.concatenate([masks.positions for masks in drawn]),
        np.concatenate([masks.ids for masks in drawn]),
        offsets_of(np.concatenate([np.diff(masks.offsets) for masks in drawn])),
    )


def no_masks(samples: int) -> Masks:
    """Masks of so many samples in which nothing is masked."""
    return Masks(np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(samples + 1, np.int64))


def masked_indices(pairs: Pairs, masks: Masks) -> NDArray[np.int64]:
    """[M] the index of each masked token into `pairs.input_ids`."""
    return np.repeat(pairs.offsets[:-1], np.diff(masks.offsets)) + masks.positions


def count_replacements(pairs: Pairs, masks: Masks, mask_id: int) -> NDArray[np.int64]:
    """[3] how many masked tokens the model sees as [MASK], as another token, as themselves."""
    at = masked_indices(pairs, masks)
    masked = np.count_nonzero(masks.ids == mask_id)
    kept = np.count_nonzero(masks.ids == pairs.input_ids[at])
    return np.array([masked, len(at) - masked - kept, kept])


def budgets(
    lengths: NDArray[np.integer], maskable: NDArray[np.integer], settings: MaskingSettings
) -> NDArray[np.float64]:
    """[N] mean number of tokens to mask: `probability` of all tokens, at least 1 (as in BERT).

    Args:
        lengths: [N] tokens of the samples.
        maskable: [N] how many of them may be masked; there are no more to mask.
    """
    wanted = np.maximum(settings.probability * lengths, 1.0)
    if settings.max_predictions is not None:
        wanted = np.minimum(wanted, settings.max_predictions)
    return np.minimum(wanted, maskable)


def _draw_masks(
    input_ids: NDArray[np.integer],
    word_starts: NDArray[np.bool_],
    offsets: NDArray[np.int64],
    keys: UINT64,
    settings: MaskingSettings,
    vocabulary: Maskable,
) -> Masks:
    begins = masked_together(word_starts, settings)
    starts, sizes, samples = maskable_words(input_ids, begins, offsets, vocabulary)
    first, count = np.arange(len(starts)), np.ones(len(starts), np.int64)
    if settings.max_ngram > 1:
        first, count = _ngrams(starts, sizes, samples, offsets, keys, settings.max_ngram)
    ends = offsets_of(sizes)
    spans = ends[first + count] - ends[first]
    positions = starts[first] - offsets.take(samples[first])
    taken = _choose(positions, spans, samples[first], keys, np.diff(offsets), settings)
    chosen = ranges(first[taken], count[taken])

    tokens = ranges(starts[chosen], sizes[chosen])
    sample = np.repeat(samples[chosen], sizes[chosen])
    positions = tokens - offsets[sample]
    ids = _seen_ids(input_ids[tokens], keys[sample], positions, settings, vocabulary)
    return Masks(positions, ids, offsets_of(np.bincount(sample, minlength=len(keys))))


def masked_together(word_starts: NDArray[np.bool_], settings: MaskingSettings) -> NDArray[np.bool_]:
    """Where what is masked as a whole begins: at words, or at each token without `whole_words`."""
    return word_starts if settings.whole_words else np.ones_like(word_starts)


def maskable_words(
    input_ids: NDArray[np.integer],
    word_starts: NDArray[np.bool_],
    offsets: NDArray[np.int64],
    vocabulary: Maskable,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """First token, tokens and sample of each word that holds no special token."""
    special = _is_special(vocabulary).take(input_ids)
    starts = np.flatnonzero(word_starts)
    sizes = np.diff(starts, append=len(input_ids))
    samples = np.repeat(np.arange(len(offsets) - 1), np.diff(np.searchsorted(starts, offsets)))
    maskable = ~special.take(starts)
    inside = np.flatnonzero(special & ~word_starts)
    maskable[np.searchsorted(starts, inside, side="right") - 1] = False
    words = np.flatnonzero(maskable)
    return starts.take(words), sizes.take(words), samples.take(words)


@lru_cache(maxsize=4)
def _is_special(vocabulary: Maskable) -> NDArray[np.bool_]:
    special = np.zeros(vocabulary.vocab_size, np.bool_)
    special[list(vocabulary.special_ids)] = True
    return special


def _ngrams(
    starts: NDArray[np.int64],
    sizes: NDArray[np.int64],
    samples: NDArray[np.int64],
    offsets: NDArray[np.int64],
    keys: UINT64,
    max_ngram: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut the words of each sample into n-grams, n = 1 … max_ngram, drawn with weight 1/n.

    Returns:
        The first word and the number of words of each n-gram, in order.
    """
    weights = 1.0 / np.arange(1, max_ngram + 1)
    shares = np.cumsum(weights)[:-1] / weights.sum()
    share = draw(keys[samples] ^ _NGRAMS, starts - offsets[samples]) / 2.0**64
    wanted = np.searchsorted(shares, share, side="right") + 1

    bounds = np.searchsorted(samples, np.arange(len(keys) + 1))
    # An n-gram ends at a word that must not be masked and at the end of a segment.
    begins = np.append(-1, (starts + sizes)[:-1])[: len(starts)] != starts
    words, ends = bounds[:-1], bounds[1:]
    while True:
        open_ = words < ends
        words, ends = words[open_], ends[open_]
        if not len(words):
            break
        begins[words] = True
        words = words + wanted[words]
    first = np.flatnonzero(begins)
    return first, np.diff(first, append=len(starts))


def _choose(
    positions: NDArray[np.int64],
    sizes: NDArray[np.int64],
    samples: NDArray[np.int64],
    keys: UINT64,
    lengths: NDArray[np.int64],
    settings: MaskingSettings,
) -> NDArray[np.int64]:
    """The candidates to mask, ascending: words or n-grams that do not overlap.

    Args:
        positions, sizes, samples: [C] first position, tokens and sample of a candidate, ascending.
        lengths: [N] tokens of the samples.
    """
    heads = np.searchsorted(samples, np.arange(len(keys) + 1))
    # Sorting plain numbers, made of (sample, random, rank), is three times as fast as an argsort.
    order = draw((keys ^ _ORDER).take(samples), positions)
    order >>= np.uint64(32)
    order <<= np.uint64(16)
    order += ((np.arange(len(keys)) << 48) - heads[:-1]).astype(np.uint64).take(samples)
    order += np.arange(len(samples), dtype=np.uint64)
    order.sort()
    order &= np.uint64(0xFFFF)
    candidates = order.astype(np.int64) + heads.take(samples)

    # The circles of all samples lie end to end. A candidate begins at a whole number, so the
    # window [begin, begin + budget) holds the same ones as that of the numbers rounded up.
    bounds = offsets_of(sizes.take(candidates))
    circle, tokens = bounds[heads[:-1]], np.diff(bounds[heads])
    begin = draw(keys ^ _WINDOW, np.zeros(len(keys), np.int64)) / 2.0**64 * tokens
    end = np.ceil(begin + budgets(lengths, tokens, settings)).astype(np.int64)
    first, last, again = np.searchsorted(
        bounds[:-1],
        np.stack([np.ceil(begin).astype(np.int64), np.minimum(end, tokens), end - tokens]) + circle,
    )
    again = np.maximum(again, heads[:-1])  # the part of the window beyond the end of the circle
    taken = candidates[
        ranges(
            np.stack([first, heads[:-1]], axis=1).ravel(),
            np.stack([last - first, again - heads[:-1]], axis=1).ravel(),
        )
    ]
    if settings.max_predictions is not None:
        taken = _without_excess(taken, sizes, samples, settings.max_predictions, len(keys))
    taken.sort()
    return taken


def _without_excess(
    taken: NDArray[np.int64],
    sizes: NDArray[np.int64],
    samples: NDArray[np.int64],
    limit: int,
    count: int,
) -> NDArray[np.int64]:
    """The candidates without the shortest ones of each sample that has more than `limit` tokens."""
    excess = np.bincount(samples[taken], sizes[taken], count).astype(np.int64) - limit
    touched = excess.take(samples[taken]) > 0
    some = taken[touched]
    some = some[np.lexsort((sizes[some], samples[some]))]
    bounds = offsets_of(sizes[some])[:-1]
    heads = np.searchsorted(samples[some], samples[some])
    kept = bounds - bounds[heads] >= excess[samples[some]]
    return np.append(taken[~touched], some[kept])


def _seen_ids(
    originals: NDArray[np.integer],
    keys: UINT64,
    positions: NDArray[np.int64],
    settings: MaskingSettings,
    vocabulary: Maskable,
) -> NDArray[np.int32]:
    """[M] the id at each masked position: [MASK], a random ordinary id, or the original."""
    random = draw(keys ^ _KIND, positions)
    kind = random >> np.uint64(32)
    replace = int(settings.mask_share * 2**32)
    keep = int((settings.mask_share + settings.random_share) * 2**32)
    specials = sorted(set(vocabulary.special_ids))
    ordinary = np.uint64(vocabulary.vocab_size - len(specials))
    drawn = ((random & np.uint64(0xFFFFFFFF)) * ordinary >> np.uint64(32)).astype(np.int32)
    for special in specials:
        drawn += drawn >= special
    seen = np.where(kind < replace, np.int32(vocabulary.mask_id), drawn)
    return np.where(kind < keep, seen, originals).astype(np.int32)
