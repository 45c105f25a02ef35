import random

import numpy as np
import pytest

from pipeline.corpus.dedup.signatures import band_hashes, shingles, signature

LETTERS = [chr(0x4E00 + number) for number in range(3000)]


def made_alike(share, size=2000, seed=0):
    """Two texts that begin alike, and the Jaccard similarity of their shingles."""
    draw = random.Random(seed)
    first = "".join(draw.choices(LETTERS, k=size))
    kept = int(size * share)
    second = first[:kept] + "".join(draw.choices(LETTERS, k=size - kept))
    sets = [set(shingles(text, 5).tolist()) for text in (first, second)]
    return first, second, len(sets[0] & sets[1]) / len(sets[0] | sets[1])


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_signatures_agree_as_often_as_the_jaccard_similarity(share):
    agreed, expected = [], []
    for seed in range(8):
        first, second, similarity = made_alike(share, seed=seed)
        agreed.append(np.mean(signature(first, 5, 512) == signature(second, 5, 512)))
        expected.append(similarity)
    # Three standard errors of eight estimates from 512 places each are 0.025 at most.
    assert abs(np.mean(agreed) - np.mean(expected)) < 0.025


@pytest.mark.parametrize(("share", "least", "most"), [(0.97, 29, 30), (0.9, 20, 30), (0.5, 0, 5)])
def test_bands_find_similar_texts_and_no_others(share, least, most):
    found = 0
    for seed in range(30):
        first, second, _ = made_alike(share, size=600, seed=seed)
        found += bool((band_hashes(first, 5, 14, 8) == band_hashes(second, 5, 14, 8)).any())
    assert least <= found <= most


def test_case_space_and_punctuation_do_not_count():
    assert np.array_equal(
        signature("今天，天气 Very Good！", 5, 16), signature("今天天气very good", 5, 16)
    )


@pytest.mark.parametrize("text", ["", "，", "一", "一二三四"])
def test_short_texts_have_a_signature(text):
    assert len(shingles(text, 5)) == 1
    assert len(band_hashes(text, 5, 14, 8)) == 14


def test_shingles_are_those_of_the_text():
    values = shingles("一二三四五六一二三四五", 5)
    assert len(values) == 7
    assert values[0] == values[6]
    assert len(set(values.tolist())) == 6
