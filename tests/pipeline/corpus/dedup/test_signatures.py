import random

import numpy as np
import pytest

from pipeline.corpus.dedup import signatures as signing
from pipeline.corpus.dedup.signatures import band_hashes, min_hashes, shingles, sign
from pipeline.corpus.randomness import mix
from pipeline.settings.corpus import DedupSettings

LETTERS = [chr(0x4E00 + number) for number in range(3000)]


def made_alike(share, size=2000, seed=0):
    """Two texts that begin alike, and the Jaccard similarity of their shingles."""
    draw = random.Random(seed)
    first = "".join(draw.choices(LETTERS, k=size))
    kept = int(size * share)
    second = first[:kept] + "".join(draw.choices(LETTERS, k=size - kept))
    sets = [set(shingles([text], 5)[0].tolist()) for text in (first, second)]
    return first, second, len(sets[0] & sets[1]) / len(sets[0] | sets[1])


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_signatures_agree_as_often_as_the_jaccard_similarity(share):
    agreed, expected = [], []
    for seed in range(8):
        first, second, similarity = made_alike(share, seed=seed)
        ours, others = min_hashes([first, second], 5, 512).T
        agreed.append(np.mean(ours == others))
        expected.append(similarity)
    # Three standard errors of eight estimates from 512 places each are 0.025 at most.
    assert abs(np.mean(agreed) - np.mean(expected)) < 0.025


@pytest.mark.parametrize(("share", "least", "most"), [(0.97, 29, 30), (0.9, 20, 30), (0.5, 0, 5)])
def test_bands_find_similar_texts_and_no_others(share, least, most):
    found = 0
    for seed in range(30):
        first, second, _ = made_alike(share, size=600, seed=seed)
        ours, others = band_hashes([first, second], 5, 14, 8).T
        found += bool((ours == others).any())
    assert least <= found <= most


def test_case_space_and_punctuation_do_not_count():
    ours, others = min_hashes(["今天，天气 Very Good！", "今天天气very good"], 5, 16).T
    assert np.array_equal(ours, others)


def test_signs_are_no_duplicates_of_other_signs():
    texts = ["！！！！！！！！", "？？？？？？？？", "😀😃😄😁😆😅", "😀😃😄😁😆😅"]
    bands = band_hashes(texts, 5, 14, 8).T
    equal = [[bool((one == other).any()) for other in bands] for one in bands]
    assert equal == [[bool(one == other) for other in texts] for one in texts]


def one_signature(text, hashes):
    """The definition, in plain Python, on one text alone."""
    kept = [character for character in text.lower() if character.isalnum()] or text or "\0"
    codes = [ord(character) for character in kept]
    factors, terms = signing._functions(hashes)
    size = min(5, len(codes))
    values = []
    for place in range(len(codes) - size + 1):
        value = np.zeros(1, np.uint64)
        for code in codes[place : place + size]:
            value = mix(value + np.uint64(code))
        values.append(int(value[0]) >> 32)
    pairs = zip(factors.ravel().tolist(), terms.ravel().tolist(), strict=True)
    return [min((factor * value + term) % 2**32 for value in values) for factor, term in pairs]


def test_texts_of_any_length_are_signed_as_if_each_were_alone(monkeypatch):
    texts = ["", "，", "一", "一二三四", "一二三四五", "一二三四五六七八九十", "A" * 40, "", "甲乙"]
    found = min_hashes(texts, 5, 16)
    assert [column.tolist() for column in found.T] == [one_signature(text, 16) for text in texts]
    whole = sign(texts, DedupSettings(near_documents=True))
    monkeypatch.setattr(signing, "CHARACTERS_AT_A_TIME", 7)
    parts = sign(texts, DedupSettings(near_documents=True))
    assert np.array_equal(whole.bands, parts.bands)
    assert whole.bands.shape == (14, len(texts))


def test_shingles_are_those_of_the_text():
    values, offsets = shingles(["一二三四五六一二三四五"], 5)
    assert offsets.tolist() == [0, 7]
    assert values[0] == values[6]
    assert len(set(values.tolist())) == 6
