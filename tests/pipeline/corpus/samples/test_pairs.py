"""The laws of pairing. Ids count the tokens of the text, so they show where a sample comes from."""

import hashlib
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus.samples import pairs as pairing
from pipeline.corpus.samples.pairs import (
    CONTINUATION,
    NO_LABEL,
    OTHER,
    build_pairs,
    truncated_tokens,
)
from pipeline.settings.corpus import PairSettings
from tests.pipeline.corpus.made import random_text, text_of, texts

CLS, SEP = 2, 3
some_settings = st.builds(
    PairSettings,
    task=st.sampled_from(["nsp", "sop", "none"]),
    short_share=st.sampled_from([0.0, 0.1, 1.0]),
    random_share=st.sampled_from([0.0, 0.5, 1.0]),
    dupe_factor=st.integers(1, 2),
)


def segments(pairs, number):
    """A and B of one sample (B is None if there is none); checks the special tokens."""
    ids = pairs.input_ids[pairs.offsets[number] : pairs.offsets[number + 1]].tolist()
    b = int(pairs.segment_b_start[number])
    assert ids[0] == CLS
    assert ids[-1] == SEP
    if b == len(ids):
        assert ids.count(SEP) == 1
        return ids[1:-1], None
    assert ids[b - 1] == SEP
    assert ids.count(SEP) == 2
    return ids[1 : b - 1], ids[b:-1]


def document_of(text, token):
    sentence = np.searchsorted(text.sentence_offsets, token - 5, side="right") - 1
    return int(np.searchsorted(text.document_offsets, sentence, side="right") - 1)


@given(texts(), some_settings, st.integers(16, 80), st.integers(0, 2**32 - 1))
def test_laws_of_pairs(text, settings, length, seed):
    pairs = build_pairs(text, settings, length, CLS, SEP, seed)
    several = len(set(text.documents.tolist())) > 1
    used = []
    for number in range(len(pairs.documents)):
        a, b = segments(pairs, number)
        label = pairs.next_sentence_label[number]
        assert pairs.offsets[number + 1] - pairs.offsets[number] <= length
        assert a == list(range(a[0], a[0] + len(a)))
        assert text.documents[document_of(text, a[0])] == pairs.documents[number]
        assert document_of(text, a[0]) == document_of(text, a[-1])
        assert (b is None) == (label == NO_LABEL)
        used += a
        if b is None:
            continue
        assert b == list(range(b[0], b[0] + len(b)))
        other = text.documents[document_of(text, b[0])]
        if settings.task == "nsp" and label == OTHER:
            assert other != pairs.documents[number]
            assert several
        else:
            assert document_of(text, a[0]) == document_of(text, b[0])
            assert (b[0] > a[-1]) == (label == CONTINUATION)
            used += b
    passes = settings.dupe_factor
    assert max(np.bincount(used), default=0) <= passes
    assert len(text.ids) * passes - len(used) == truncated_tokens(text, pairs, settings)
    if settings.task == "none":
        assert len(used) == len(text.ids) * passes
        assert set(pairs.next_sentence_label.tolist()) <= {NO_LABEL}


@given(texts(), some_settings, st.integers(0, 2**32 - 1))
def test_nothing_is_lost_where_nothing_is_truncated(text, settings, seed):
    settings = settings.model_copy(update={"random_share": 0.0})
    pairs = build_pairs(text, settings, 60_000, CLS, SEP, seed)
    assert truncated_tokens(text, pairs, settings) == 0
    used = pairs.input_ids[pairs.input_ids >= 5]
    assert sorted(used.tolist()) == sorted(text.ids.tolist() * settings.dupe_factor)


@given(texts(), some_settings, st.integers(0, 2**32 - 1))
def test_word_starts_are_those_of_the_text(text, settings, seed):
    pairs = build_pairs(text, settings, 40, CLS, SEP, seed)
    expected = np.append(np.ones(5, np.bool_), text.word_starts)[pairs.input_ids]
    for number in range(len(pairs.documents)):
        first = pairs.offsets[number]
        expected[first + 1] = True
        if pairs.segment_b_start[number] < pairs.offsets[number + 1] - first:
            expected[first + pairs.segment_b_start[number]] = True
    assert (pairs.word_starts == expected).all()


@given(st.integers(1, 90), st.integers(1, 90), st.integers(13, 80), st.integers(0, 99))
def test_truncation_is_that_of_bert(a, b, room, seed):
    """Compares with BERT's truncate_seq_pair, which removes one token at a time."""
    left = [a, b]
    while sum(left) > room:
        left[0 if left[0] > left[1] else 1] -= 1
    a0, a1, b0, b1 = pairing._truncate(100, 100 + a, 500, 500 + b, room, Random(seed))
    assert [a1 - a0, b1 - b0] == left
    assert a0 >= 100
    assert a1 <= 100 + a
    assert b0 >= 500
    assert b1 <= 500 + b


def test_truncation_takes_front_and_back_equally_often():
    random = Random(0)
    fronts = [pairing._truncate(0, 100, 500, 510, 60, random)[0] for _ in range(2000)]
    assert np.mean(fronts) == pytest.approx(25, abs=0.5)
    assert np.var(fronts) == pytest.approx(12.5, rel=0.2)


def test_shares_of_random_and_of_short_samples():
    text = random_text(0, 3000)
    pairs = build_pairs(text, PairSettings(), 128, CLS, SEP, 0)
    labels, lengths = pairs.next_sentence_label, np.diff(pairs.offsets)
    singles = labels.mean() - 0.5
    assert 0 <= singles < 0.1  # single sentences always get a random B, as in BERT
    unshortened = build_pairs(text, PairSettings(short_share=0), 128, CLS, SEP, 0)
    assert np.mean(lengths < 64) - np.mean(np.diff(unshortened.offsets) < 64) > 0.02
    swapped = build_pairs(text, PairSettings(task="sop"), 128, CLS, SEP, 0)
    assert swapped.next_sentence_label.mean() == pytest.approx(0.5, abs=0.02)


def bert_instances(documents, room, random):
    """BERT's create_instances_from_document, on sentence lengths: (A, B, is random) by length."""
    for number, document in enumerate(documents):
        chunk, at = [], 0
        target = random.randint(2, room) if random.random() < 0.1 else room
        while at < len(document):
            chunk.append(document[at])
            if at == len(document) - 1 or sum(chunk) >= target:
                a_end = random.randint(1, len(chunk) - 1) if len(chunk) > 1 else 1
                a, b = sum(chunk[:a_end]), 0
                is_random = len(chunk) == 1 or random.random() < 0.5
                if is_random:
                    other = number
                    while other == number:
                        other = random.randrange(len(documents))
                    for size in documents[other][random.randrange(len(documents[other])) :]:
                        b += size
                        if b >= target - a:
                            break
                    at -= len(chunk) - a_end
                else:
                    b = sum(chunk[a_end:])
                while a + b > room:
                    a, b = (a - 1, b) if a > b else (a, b - 1)
                yield a, b, is_random
                chunk = []
                target = random.randint(2, room) if random.random() < 0.1 else room
            at += 1


def test_samples_have_the_distribution_of_bert_s():
    text = random_text(4, 6000)
    lengths = np.diff(text.sentence_offsets)
    bounds = text.document_offsets
    documents = [lengths[a:b].tolist() for a, b in pairwise(bounds)]
    reference = np.array(list(bert_instances(documents, 61, Random(0))), float)
    pairs = build_pairs(text, PairSettings(), 64, CLS, SEP, 0)
    a = pairs.segment_b_start - 2
    b = np.diff(pairs.offsets) - pairs.segment_b_start - 1
    found = np.stack([a, b, pairs.next_sentence_label], axis=1).astype(float)
    assert len(found) == pytest.approx(len(reference), rel=0.01)
    error = np.hypot(*(x.std(axis=0) / np.sqrt(len(x)) for x in (found, reference)))
    assert (np.abs(found.mean(axis=0) - reference.mean(axis=0)) < 5 * error).all()
    for column in (0, 1):
        quantiles = np.linspace(0.05, 0.95, 19)
        ours, theirs = (np.quantile(x[:, column], quantiles) for x in (found, reference))
        assert np.abs(ours - theirs).max() <= 1


def test_random_partners_come_from_all_other_documents_equally_often():
    text = text_of([[[1] * 20] * 40] * 5, [9, 7, 7, 3, 1])
    pairs = build_pairs(text, PairSettings(random_share=1, dupe_factor=200), 32, CLS, SEP, 0)
    first = np.array([document_of(text, segments(pairs, i)[0][0]) for i in range(2000)])
    second = np.array([document_of(text, segments(pairs, i)[1][0]) for i in range(2000)])
    counts = np.bincount(second[first == 0], minlength=5)
    assert counts[0] == 0
    assert counts[1:].min() > 0.7 * counts[1:].mean()
    # Documents 1 and 2 have the same number: neither is the other's partner.
    assert set(second[(first == 1) | (first == 2)].tolist()) <= {0, 3, 4}


def test_one_document_has_no_random_partner():
    text = text_of([[[2, 1, 2]] * 30], [5])
    pairs = build_pairs(text, PairSettings(random_share=1), 32, CLS, SEP, 0)
    assert set(pairs.next_sentence_label.tolist()) == {CONTINUATION}


@pytest.mark.parametrize("task", ["nsp", "sop"])
def test_one_sentence_is_divided_at_the_word_nearest_its_middle(task):
    text = text_of([[[3, 2, 4]]], [5])
    pairs = build_pairs(text, PairSettings(task=task, random_share=0), 32, CLS, SEP, 0)
    assert segments(pairs, 0) == ([5, 6, 7, 8, 9], [10, 11, 12, 13])
    assert pairs.next_sentence_label.tolist() == [CONTINUATION]


def test_one_word_has_no_b_and_no_label():
    pairs = build_pairs(text_of([[[3]]], [5]), PairSettings(), 32, CLS, SEP, 0)
    assert segments(pairs, 0) == ([5, 6, 7], None)
    assert pairs.next_sentence_label.tolist() == [NO_LABEL]


@pytest.mark.parametrize("task", ["nsp", "sop", "none"])
def test_a_very_long_sentence_is_cut_at_words(task):
    sizes = np.random.default_rng(0).integers(1, 4, 20_000).tolist()
    text = text_of([[sizes]], [1])
    settings = PairSettings(task=task, short_share=0, random_share=0)
    pairs = build_pairs(text, settings, 128, CLS, SEP, 0)
    assert truncated_tokens(text, pairs, settings) < 0.03 * len(text.ids)
    firsts = [segments(pairs, i)[0][0] for i in range(len(pairs.documents))]
    at_words = text.word_starts[np.array(firsts) - 5].mean()
    assert at_words == 1.0 if task == "none" else at_words > 0.5


def test_a_word_longer_than_a_sample_is_cut_anywhere():
    text = text_of([[[3, 500, 2]]], [1])
    settings = PairSettings(task="none")
    pairs = build_pairs(text, settings, 64, CLS, SEP, 0)
    assert truncated_tokens(text, pairs, settings) == 0


def test_the_seed_determines_the_pairs():
    text = random_text(3, 20)
    one, two, other = (build_pairs(text, PairSettings(), 64, CLS, SEP, s) for s in (1, 1, 2))
    assert all((left == right).all() for left, right in zip(one, two, strict=True))
    assert one.input_ids.tolist() != other.input_ids.tolist()


def test_each_pass_gives_new_pairs():
    text = random_text(3, 20)
    pairs = build_pairs(text, PairSettings(dupe_factor=2), 64, CLS, SEP, 1)
    once = build_pairs(text, PairSettings(), 64, CLS, SEP, 1)
    count = len(once.documents)
    assert (pairs.input_ids[: once.offsets[-1]] == once.input_ids).all()
    assert pairs.segment_b_start[count : 2 * count].tolist() != once.segment_b_start.tolist()


def test_no_text_gives_no_samples():
    pairs = build_pairs(text_of([], []), PairSettings(), 64, CLS, SEP, 1)
    assert len(pairs.documents) == len(pairs.input_ids) == 0
    assert pairs.offsets.tolist() == [0]


def test_a_seed_gives_the_same_pairs_as_in_earlier_versions():
    """Identical shards rely on this: if it fails, raise FORMAT of pipeline.corpus.planning."""
    text = text_of(
        [[[1, 2, 3] * (1 + n * s % 7) for s in range(9)] for n in range(9)], list(range(9))
    )
    pairs = build_pairs(text, PairSettings(), 64, CLS, SEP, 1)
    digest = hashlib.sha256(pairs.input_ids.astype("<i4").tobytes())
    digest.update(pairs.segment_b_start.astype("<i8").tobytes())
    assert digest.hexdigest()[:16] == "59a55821b2cf6c3e"
