"""Paired tests over examples: does one network answer them better than another?"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pipeline.finetuning.judging.judge import ratio

RESAMPLES = 2000
DRAWN = 1 << 22
"""Examples that are drawn at a time, through all resamples."""


@dataclass(frozen=True)
class Difference:
    """The score of A minus that of B on the same examples, both averaged over seeds."""

    mean: float
    low: float
    high: float
    """95 % interval of the paired bootstrap over examples and seeds."""
    p: float
    """Two-sided."""
    test: str
    """`McNemar` or `bootstrap`."""


def compare(first: NDArray[np.float64], second: NDArray[np.float64]) -> Difference:
    """Compare two networks that answered the same N examples.

    Args:
        first: [S, N, 2] numerators and denominators (`judging.shares`) of S seeds.
        second: [T, N, 2] of the other network.

    Where each example is right or wrong, p is that of McNemar's exact test on the majority of the
    seeds, without examples that half of them answer right. It takes the seeds as given: the
    interval, which draws seeds too, may hold 0 where p is small. Otherwise, for F1, p is that of
    the bootstrap.
    """
    means = [ratio(each.sum(1)).mean() for each in (first, second)]
    drawn = bootstrap(first, second)
    low, high = np.quantile(drawn, [0.025, 0.975])
    if _is_right_or_wrong(first) and _is_right_or_wrong(second):
        votes = [each[..., 0].mean(0) for each in (first, second)]
        # A tie of an even number of seeds is neither: as "wrong" it would count against the network
        # whose seeds differ more.
        clear = (votes[0] != 0.5) & (votes[1] != 0.5)
        p, test = mcnemar(*(each[clear] > 0.5 for each in votes)), "McNemar"
    else:
        below = min((drawn <= 0).mean(), (drawn >= 0).mean())
        p, test = min(1.0, max(2 * float(below), 1 / RESAMPLES)), "bootstrap"
    return Difference(float(means[0] - means[1]), float(low), float(high), p, test)


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """p of McNemar's exact test (1947) on the examples that only one network answers right."""
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(stats.binomtest(only_first, only_first + only_second, 0.5).pvalue)


def bootstrap(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """[RESAMPLES] differences of mean scores, with examples and seeds drawn with replacement.

    The same examples are drawn for both networks (Efron and Tibshirani 1993; Koehn 2004).
    """
    draw = np.random.default_rng(0)
    number = first.shape[1]
    shares = np.full(number, 1 / number)
    rows = max(1, DRAWN // number)
    sums: list[list[NDArray[np.float64]]] = [[], []]
    for start in range(0, RESAMPLES, rows):  # all draws of many examples would be gigabytes
        times = draw.multinomial(number, shares, min(rows, RESAMPLES - start)).astype(np.float64)
        for own, each in zip(sums, (first, second), strict=True):
            own.append(np.einsum("rn,snk->rsk", times, each, optimize=True))
    found = []
    for own, each in zip(sums, (first, second), strict=True):
        scores = ratio(np.concatenate(own))
        seeds = draw.integers(0, len(each), (RESAMPLES, len(each)))
        found.append(np.take_along_axis(scores, seeds, 1).mean(1))
    return found[0] - found[1]


def _is_right_or_wrong(shares: NDArray[np.float64]) -> bool:
    return bool((shares[..., 1] == 1).all() and np.isin(shares[..., 0], (0, 1)).all())
