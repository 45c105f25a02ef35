"""Whole-word masks, drawn for many samples at once.

Every random number is a hash of (sample key, position in the sample), so the masks of a sample
depend neither on the worker that draws them nor on the other samples in the batch.
"""

from __future__ import annotations

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
_ORDER, _NGRAMS, _KIND = (key_of(stream) for stream in range(3))
"""Keys of the random streams of one sample: order of words, n-gram lengths, replacements."""


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


def whole_word_masks(
    pairs: Pairs,
    settings: MaskingSettings,
    vocabulary: Maskable,
    seed: int,
    epoch: int | NDArray[np.integer] = 0,
    samples: NDArray[np.integer] | None = None,
) -> Masks:
    """Choose whole words of N samples and the ids that the model sees in their place.

    The budget of a sample of n tokens is min(max_predictions, max(1, round(probability * n))), as
    in BERT's create_pretraining_data. Words are tried in random order; a word that no longer fits
    is skipped, so a sample stays below its budget only if none of the other words fits.

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


def count_replacements(pairs: Pairs, masks: Masks, mask_id: int) -> NDArray[np.int64]:
    """[3] how many masked tokens the model sees as [MASK], as another token, as themselves."""
    at = np.repeat(pairs.offsets[:-1], np.diff(masks.offsets)) + masks.positions
    masked = np.count_nonzero(masks.ids == mask_id)
    kept = np.count_nonzero(masks.ids == pairs.input_ids[at])
    return np.array([masked, len(at) - masked - kept, kept])


def _draw_masks(
    input_ids: NDArray[np.integer],
    word_starts: NDArray[np.bool_],
    offsets: NDArray[np.int64],
    keys: UINT64,
    settings: MaskingSettings,
    vocabulary: Maskable,
) -> Masks:
    lengths = np.diff(offsets)
    room = np.rint(settings.probability * lengths).astype(np.int64).clip(1)
    np.minimum(room, settings.max_predictions, out=room)

    starts, sizes, samples = _maskable_words(input_ids, word_starts, offsets, vocabulary)
    positions = starts - offsets.take(samples)
    if settings.max_ngram == 1:
        chosen = _choose(positions, sizes, samples, keys, room)
    else:
        first, count = _ngrams(starts, sizes, samples, offsets, keys, settings.max_ngram)
        ngram_sizes = np.diff(offsets_of(sizes)[np.append(first, len(sizes))])
        taken = _choose(positions[first], ngram_sizes, samples[first], keys, room)
        chosen = ranges(first[taken], count[taken])
        # Single words fill the room that no n-gram fits into.
        rest = np.delete(np.arange(len(starts)), chosen)
        taken = _choose(positions[rest], sizes[rest], samples[rest], keys, room)
        chosen = np.append(chosen, rest[taken])
    chosen.sort()

    tokens = ranges(starts[chosen], sizes[chosen])
    sample = np.repeat(samples[chosen], sizes[chosen])
    positions = tokens - offsets[sample]
    ids = _seen_ids(input_ids[tokens], keys[sample], positions, settings, vocabulary)
    return Masks(positions, ids, offsets_of(np.bincount(sample, minlength=len(keys))))


def _maskable_words(
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
    room: NDArray[np.int64],
) -> NDArray[np.int64]:
    """The candidates that are taken if each sample tries its own in random order.

    Args:
        positions, sizes, samples: [C] first position, tokens and sample of a candidate, ascending.
        room: [N] tokens that each sample may still mask; what is taken is subtracted.
    """
    bounds = np.searchsorted(samples, np.arange(len(keys) + 1))
    heads, counts = bounds[:-1], np.diff(bounds)
    # Sorting plain numbers, made of (sample, random, rank), is three times as fast as an argsort.
    order = draw((keys ^ _ORDER).take(samples), positions)
    order >>= np.uint64(32)
    order <<= np.uint64(16)
    order += ((np.arange(len(keys)) << 48) - heads).astype(np.uint64).take(samples)
    order += np.arange(len(samples), dtype=np.uint64)
    order.sort()
    # Each candidate has a token or more: after as many as there is room for, most samples are full.
    early = np.minimum(counts, room)
    taken = _take_in_order(order[ranges(heads, early)], sizes, heads, room)
    late = np.where(room > 0, counts - early, 0)
    return np.append(taken, _take_in_order(order[ranges(heads + early, late)], sizes, heads, room))


def _take_in_order(
    order: UINT64, sizes: NDArray[np.int64], heads: NDArray[np.int64], room: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The candidates that a greedy choice, one by one, takes; found in rounds for all samples.

    A round drops the candidates that do not fit alone, then takes the longest prefix of the others
    that fits together; the candidate after that prefix can no longer fit.
    """
    sample = (order >> np.uint64(48)).astype(np.int64)
    candidate = (order & np.uint64(0xFFFF)).astype(np.int64) + heads.take(sample)
    taken = [np.zeros(0, np.int64)]
    while len(candidate):
        size = sizes.take(candidate)
        fits = np.flatnonzero(size <= room.take(sample))
        candidate, sample, size = candidate.take(fits), sample.take(fits), size.take(fits)
        total = np.cumsum(size)
        firsts = np.flatnonzero(np.diff(sample, prepend=-1))
        before = np.repeat((total - size)[firsts], np.diff(firsts, append=len(sample)))
        jointly = total - before <= room.take(sample)
        taken.append(candidate[jointly])
        room -= np.bincount(sample[jointly], size[jointly], len(room)).astype(np.int64)
        candidate, sample = candidate[~jointly], sample[~jointly]
    return np.concatenate(taken)


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
