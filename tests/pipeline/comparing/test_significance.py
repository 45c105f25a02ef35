"""Paired tests, against exact sums and known laws."""

from math import comb

import numpy as np
import pytest

from pipeline.comparing import significance
from pipeline.comparing.significance import compare, mcnemar


def right(*answers):
    """[S, N, 2] of S seeds, of right (1) and wrong (0) answers."""
    given = np.array(answers, dtype=float)
    return np.stack([given, np.ones_like(given)], -1)


def test_mcnemar_is_the_exact_binomial_test():
    first = np.array([True] * 9 + [False] * 2 + [True] * 20)
    second = np.array([False] * 9 + [True] * 2 + [True] * 20)
    exact = 2 * sum(comb(11, k) for k in range(3)) / 2**11
    assert mcnemar(first, second) == pytest.approx(exact)
    assert mcnemar(first, first) == 1.0


def test_an_example_is_right_if_most_seeds_answer_it_right():
    first = right([1, 1, 0, 0], [1, 1, 0, 1], [1, 0, 0, 0])
    second = right([0, 1, 0, 0])
    found = compare(first, second)
    assert found.test == "McNemar"
    assert found.p == 1.0  # one example differs
    assert found.mean == pytest.approx(np.mean([2, 3, 1]) / 4 - 1 / 4)
    assert found.low <= found.mean <= found.high


def test_ties_of_an_even_number_of_seeds_do_not_count_against_a_network():
    steady = right([1] * 10 + [0] * 10, [1] * 10 + [0] * 10)
    unsteady = right([1] * 20, [0] * 20)  # the same mean
    assert compare(steady, unsteady).p == 1.0


def test_a_clear_difference_is_found_and_no_difference_is_not():
    draw = np.random.default_rng(1)
    chance = draw.random(400)

    def answers(level):
        return right(*((chance + 0.1 * draw.random(400) < level) for _ in range(3)))

    clear, none = compare(answers(0.8), answers(0.6)), compare(answers(0.7), answers(0.7))
    assert clear.p < 1e-4
    assert clear.low > 0.1
    assert none.p > 0.1
    assert none.low < 0 < none.high


def test_f1_is_resampled_as_a_ratio_of_sums():
    draw = np.random.default_rng(2)
    truth = draw.integers(1, 4, 300)

    def shares(level):
        hits = draw.binomial(truth, level)
        return np.stack([2.0 * hits, 2.0 * truth], -1)[None]

    first, second = shares(0.8), shares(0.7)
    found = compare(first, second)
    assert found.test == "bootstrap"
    assert found.mean == pytest.approx(
        first[0, :, 0].sum() / first[0, :, 1].sum() - second[0, :, 0].sum() / second[0, :, 1].sum()
    )
    assert found.p < 0.01
    # The normal approximation of the difference of two paired proportions.
    each = (first[0, :, 0] - second[0, :, 0]) / first[0, :, 1].mean()
    half = 1.96 * each.std() / 300**0.5
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.15)
    assert compare(first, first).p == 1.0


def test_many_examples_are_drawn_in_parts_with_the_same_result(monkeypatch):
    """All draws of 100,000 examples took gigabytes of memory."""
    random = np.random.default_rng(1)
    first, second = random.integers(0, 5, (2, 3, 90, 2)).astype(np.float64)
    whole = significance.bootstrap(first, second)
    monkeypatch.setattr(significance, "DRAWN", 1000)
    assert np.array_equal(significance.bootstrap(first, second), whole)
