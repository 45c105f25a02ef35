"""The laws of whole-word masks, for any sample and setting."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.corpus.arrays import offsets_of
from pipeline.corpus.records import Pairs
from pipeline.corpus.samples import masks as masking
from pipeline.corpus.samples.masks import sample_keys, whole_word_masks
from pipeline.settings.corpus import MaskingSettings
from tests.pipeline.corpus.made import VOCABULARY

UNK = 1


@st.composite
def batches(draw):
    """Samples as lists of words, which are lists of ids: [CLS] first, [SEP] last and between."""
    word = st.lists(st.sampled_from([5, 6, 7, 999, UNK]), min_size=1, max_size=6)
    words = st.one_of(word, word, word, st.just([3]))
    sample = st.lists(words, max_size=40).map(lambda body: [[2], *body, [3]])
    return draw(st.lists(sample, max_size=6))


some_settings = st.builds(
    MaskingSettings,
    probability=st.floats(0.01, 0.6),
    max_predictions=st.none() | st.integers(1, 30),
    mask_share=st.floats(0, 0.7),
    random_share=st.floats(0, 0.3),
    max_ngram=st.integers(1, 4),
)


def flatten(samples):
    ids = np.array([token for sample in samples for word in sample for token in word], np.int32)
    firsts = [place == 0 for s in samples for word in s for place in range(len(word))]
    lengths = [sum(len(word) for word in sample) for sample in samples]
    offsets = offsets_of(np.array(lengths, np.int64))
    none = np.zeros(len(samples), np.int64)
    return Pairs(ids, np.array(firsts, np.bool_), offsets, none, none, none)


def masks_of(words, chosen, seed=1, **streams):
    return whole_word_masks(flatten(words), chosen, VOCABULARY, seed, **streams)


def per_sample(masks, count):
    cuts = masks.offsets
    return [
        dict(
            zip(
                masks.positions[cuts[i] : cuts[i + 1]].tolist(),
                masks.ids[cuts[i] : cuts[i + 1]].tolist(),
                strict=True,
            )
        )
        for i in range(count)
    ]


@given(batches(), some_settings, st.integers(0, 2**32 - 1))
def test_whole_words_are_masked_near_the_budget_and_special_tokens_never(samples, chosen, seed):
    masks = masks_of(samples, chosen, seed)
    for sample, masked in zip(samples, per_sample(masks, len(samples)), strict=True):
        assert list(masked) == sorted(masked)
        at, maskable = 0, [0]
        for word in sample:
            places = set(range(at, at + len(word)))
            hit = places & set(masked)
            assert hit in (set(), places)
            if set(word) & set(VOCABULARY.special_ids):
                assert not hit
            else:
                maskable.append(len(word))
            at += len(word)
        limit = chosen.max_predictions or at
        budget = min(max(1, chosen.probability * at), limit, sum(maskable))
        assert abs(len(masked) - budget) < max(1, max(maskable) * chosen.max_ngram)
        assert len(masked) <= limit


LONGEST = 8


def samples_of_length(length, count, shares, seed=0):
    """Samples of exactly so many tokens, in whose words each size 1 … 8 has about its share."""
    random = np.random.default_rng(seed)
    samples = []
    for _ in range(count):
        ends = np.cumsum(1 + random.choice(LONGEST, length, p=shares)).clip(max=length - 2)
        sizes = np.diff(ends, prepend=0)
        samples.append([[2], *([7] * size for size in sizes[sizes > 0].tolist()), [3]])
    return samples


@pytest.mark.parametrize("length", [16, 64, 128, 512, 2048])
@pytest.mark.parametrize("max_ngram", [1, 3])
@pytest.mark.parametrize(
    "shares",
    [np.full(8, 1 / 8), np.array([0.5, 0.38, 0.06, 0.02, 0.01, 0.01, 0.01, 0.01])],
    ids=["uniform", "Chinese"],
)
def test_the_mask_rate_does_not_depend_on_word_length(length, shares, max_ngram):
    draws = 60
    samples = samples_of_length(length, 30_000 // length, shares)
    pairs = flatten(samples)
    starts = np.flatnonzero(pairs.word_starts)
    sizes = np.diff(starts, append=len(pairs.input_ids))
    ordinary = pairs.input_ids[starts] == 7
    tokens, hit = 0, np.zeros(LONGEST + 1)
    for epoch in range(draws):
        masks = masks_of(samples, MaskingSettings(max_ngram=max_ngram), epoch=epoch)
        masked = np.zeros(len(pairs.input_ids), bool)
        masked[np.repeat(pairs.offsets[:-1], np.diff(masks.offsets)) + masks.positions] = True
        hit += np.bincount(sizes[ordinary], masked[starts[ordinary]], LONGEST + 1)
        tokens += len(masks.positions)
    words = np.bincount(sizes[ordinary], minlength=LONGEST + 1)[1:] * draws
    wanted = 0.15 * length / (length - 2)  # [CLS] and [SEP] count as tokens and are not masked
    assert tokens / (draws * len(pairs.input_ids)) == pytest.approx(0.15, rel=0.02)
    # Draws of one sample are nearly independent; those of words in one n-gram are not.
    error = 5 * max_ngram * np.sqrt(wanted / words)
    assert (np.abs(hit[1:] / words - wanted) < error).all()
    # The test can tell ten per cent from nothing for the frequent lengths at least.
    assert (error[:3] < 0.1 * wanted).all() or max_ngram > 1


def test_a_limit_cuts_the_number_of_predictions_and_long_words_least():
    samples = samples_of_length(128, 300, np.array([0.5, 0.38, 0.06, 0.02, 0.01, 0.01, 0.01, 0.01]))
    pairs = flatten(samples)
    starts = np.flatnonzero(pairs.word_starts)
    sizes = np.diff(starts, append=len(pairs.input_ids))
    hit, words, total = np.zeros(2), np.zeros(2), 0
    for epoch in range(60):
        masks = masks_of(samples, MaskingSettings(max_predictions=20), epoch=epoch)
        assert np.diff(masks.offsets).max() == 20
        total += len(masks.positions)
        masked = np.zeros(len(pairs.input_ids), bool)
        masked[np.repeat(pairs.offsets[:-1], np.diff(masks.offsets)) + masks.positions] = True
        for group, chosen in enumerate(((sizes == 2), (sizes > 4))):
            hit[group] += masked[starts[chosen]].sum()
            words[group] += chosen.sum()
    assert total / (60 * len(pairs.input_ids)) == pytest.approx(0.15, rel=0.03)
    assert hit[1] / words[1] == pytest.approx(hit[0] / words[0], rel=0.1)


@given(batches(), some_settings, st.integers(0, 2**32 - 1))
def test_replacements_are_mask_original_or_ordinary_and_labels_restore_the_text(
    samples, chosen, seed
):
    ids, _, offsets, *_ = flatten(samples)
    masks = masks_of(samples, chosen, seed)
    at = masks.positions + np.repeat(offsets[:-1], np.diff(masks.offsets))
    seen = ids.copy()
    seen[at] = masks.ids
    ordinary = set(range(VOCABULARY.vocab_size)) - set(VOCABULARY.special_ids)
    assert set(masks.ids.tolist()) <= ordinary | {VOCABULARY.mask_id}
    seen[at] = ids[at]
    assert (seen == ids).all()
    assert len(set(at.tolist())) == len(at)


@given(batches(), some_settings, st.integers(0, 2**32 - 1), st.randoms())
def test_a_sample_s_masks_do_not_depend_on_its_batch(samples, chosen, seed, random):
    together = per_sample(masks_of(samples, chosen, seed), len(samples))
    order = list(range(len(samples)))
    random.shuffle(order)
    order = order[: max(1, len(order) // 2)]
    if samples:
        some = masks_of([samples[i] for i in order], chosen, seed, samples=np.array(order))
        assert per_sample(some, len(order)) == [together[i] for i in order]


def long_samples(count, words=70, seed=0):
    random = np.random.default_rng(seed)
    return [
        [[2], *([int(i)] * int(n) for i, n in random.integers((5, 1), (999, 4), (words, 2))), [3]]
        for _ in range(count)
    ]


def test_the_number_of_samples_at_a_time_makes_no_difference(monkeypatch):
    samples = long_samples(50)
    whole = masks_of(samples, MaskingSettings())
    monkeypatch.setattr(masking, "_SAMPLES_AT_A_TIME", 7)
    for left, right in zip(whole, masks_of(samples, MaskingSettings()), strict=True):
        assert (left == right).all()


def test_shares_hold_within_sampling_error():
    samples = long_samples(2000)
    ids, _, offsets, *_ = flatten(samples)
    masks = masks_of(samples, MaskingSettings())
    original = ids[masks.positions + np.repeat(offsets[:-1], np.diff(masks.offsets))]
    total = len(original)
    masked = (masks.ids == VOCABULARY.mask_id).mean()
    other = ((masks.ids != VOCABULARY.mask_id) & (masks.ids != original)).mean()
    error = 5 * np.sqrt(0.16 / total)
    assert abs(masked - 0.8) < error
    assert abs(other - 0.1 * (1 - 1 / 995)) < error
    # Random ids are spread over the whole ordinary vocabulary (20 bins, chi-square at 1e-6).
    drawn = masks.ids[(masks.ids != VOCABULARY.mask_id) & (masks.ids != original)]
    counts = np.bincount((drawn - 5) * 20 // 995, minlength=20)
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 68


def test_every_word_is_equally_likely_to_be_chosen():
    samples = [[[2], *([[7]] * 40), [3]]] * 4000
    masks = masks_of(samples, MaskingSettings())
    counts = np.bincount(masks.positions, minlength=42)
    assert counts[0] == counts[41] == 0
    expected = counts.sum() / 40
    assert ((counts[1:41] - expected) ** 2 / expected).sum() < 100  # chi-square(39) at 1e-6: 98


def test_n_grams_follow_their_weights():
    words = np.arange(0, 200_000, 2)
    sizes, samples = np.full(100_000, 2), np.repeat(np.arange(1000), 100)
    keys = sample_keys(1, 0, np.arange(1000, dtype=np.uint64))
    first, count = masking._ngrams(words, sizes, samples, np.arange(1001) * 200, keys, max_ngram=3)
    assert (np.append(first[1:], 100_000) == first + count).all()
    shares = np.bincount(count, minlength=4)[1:] / len(count)
    # The last n-gram of a sample may be cut short, so the shares differ by up to one in a hundred.
    assert shares == pytest.approx(np.array([6, 3, 2]) / 11, abs=0.02)


def test_ngram_masking_masks_neighbours_together_and_keeps_the_rate():
    samples = [[[2], *([[7]] * 100), [3]]] * 500
    alone = masks_of(samples, MaskingSettings())
    together = masks_of(samples, MaskingSettings(max_ngram=3))
    neighbours = [(np.diff(masks.positions) == 1).sum() for masks in (alone, together)]
    assert neighbours[1] > 2 * neighbours[0]
    assert len(together.positions) == pytest.approx(len(alone.positions), rel=0.05)


def test_seed_epoch_and_sample_each_change_the_masks():
    samples = long_samples(1)
    drawn = [
        tuple(masks_of(samples, MaskingSettings(), **streams).positions)
        for streams in ({}, {"seed": 2}, {"epoch": 1}, {"samples": np.array([1])})
    ]
    assert len(set(drawn)) == 4


def test_each_sample_may_have_its_own_epoch():
    samples = np.array([3, 4], np.uint64)
    mixed = sample_keys(1, np.array([0, 7]), samples)
    assert mixed[0] == sample_keys(1, 0, samples)[0]
    assert mixed[1] == sample_keys(1, 7, samples)[1]


@settings(max_examples=20)
@given(st.integers(1, 64))
def test_any_number_of_special_tokens(specials):
    vocabulary = masking.Maskable(0, specials + 1, tuple(range(specials)))
    samples = [[[specials]] * 30]
    chosen = MaskingSettings(mask_share=0.0, random_share=1.0)
    masks = whole_word_masks(flatten(samples), chosen, vocabulary, 1)
    assert set(masks.ids.tolist()) == {specials}


def test_a_seed_gives_the_same_masks_as_in_earlier_versions():
    """Resuming and preparing again rely on this.

    If it fails, raise SCHEMA_VERSION of pipeline.corpus.shards.format and FORMAT of
    pipeline.corpus.planning. Since schema version 2 a window on a circle draws the words, with the
    same rate for words of any length.
    """
    samples = [[[2], *([7 + i] * (1 + i * n % 3) for i in range(60)), [3]] for n in range(20)]
    digest = hashlib.sha256()
    for chosen in (MaskingSettings(), MaskingSettings(max_ngram=3)):
        masks = masks_of(samples, chosen)
        digest.update(masks.positions.astype("<i8").tobytes() + masks.ids.astype("<i4").tobytes())
    assert digest.hexdigest()[:16] == "b7ff19ed25827d5e"


def test_without_whole_words_each_token_is_masked_alone():
    """Half of a word of two tokens is masked about as often as chance says."""
    words = [[[2], *[[5, 6]] * 40, [3]]] * 200
    chosen = MaskingSettings(probability=0.2, whole_words=False)
    halves = [
        sum((1 + 2 * word in found) != (2 + 2 * word in found) for word in range(40))
        for found in per_sample(masks_of(words, chosen), len(words))
    ]
    assert np.mean(halves) / 40 == pytest.approx(2 * 0.2 * 0.8, abs=0.03)
    whole = per_sample(masks_of(words, MaskingSettings(probability=0.2)), len(words))
    assert all(
        (place + 1 if place % 2 else place - 1) in found for found in whole for place in found
    )


def test_the_share_of_masked_tokens_changes_with_the_progress():
    changing = MaskingSettings(mode="dynamic", probability=0.3, final_probability=0.1)
    shares = [masking.at_progress(changing, done).probability for done in (0, 0.5, 1, 3)]
    assert shares == pytest.approx([0.3, 0.2, 0.1, 0.1])
    assert masking.at_progress(MaskingSettings(), 0.5) == MaskingSettings()
