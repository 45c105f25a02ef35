"""Weights of shard folders: `PATH@WEIGHT`, and the shares of the samples that they give."""

from collections.abc import Sequence
from fractions import Fraction
from math import gcd, lcm

from pipeline.corpus.shards.format import Manifest
from pipeline.errors import ShardError


def split_weights(shards: Sequence[str]) -> tuple[list[str], list[str]]:
    """Folders and weights of `PATH@WEIGHT` arguments; the weights are empty if none is given.

    Raises:
        ShardError: there is no folder, only some have weights, or a weight is not a number above 0.
    """
    if not shards:
        raise ShardError("no shard folders; set train.shards")
    # An @ that a slash follows belongs to the path.
    split = [
        (path, weight) if path and "/" not in weight else (shard, "")
        for shard in shards
        for path, _, weight in [shard.rpartition("@")]
    ]
    folders, weights = [path for path, _ in split], [weight for _, weight in split]
    if not any(weights):
        return folders, []
    try:
        quotas(weights)
    except (ValueError, ZeroDivisionError):
        raise ShardError(
            f"train.shards: {list(shards)}: give every folder a weight above 0, or none"
        ) from None
    return folders, weights


def mean_length(corpora: Sequence[Manifest], weights: Sequence[str]) -> float:
    """Mean tokens of a sample that training reads; without weights a corpus gives all it has."""
    shares = list(map(float, map(Fraction, weights))) or [float(each.rows) for each in corpora]
    means = [each.tokens / max(1, each.rows) for each in corpora]
    return sum(share * mean for share, mean in zip(shares, means, strict=True)) / sum(shares)


def quotas(weights: Sequence[str]) -> tuple[int, ...]:
    """The smallest whole numbers in the ratio of the weights as written: 0.2, 0.6 give 1, 3.

    Raises:
        ValueError: a weight is not a number above 0.
    """
    fractions = [Fraction(weight) for weight in weights]
    if any(fraction <= 0 for fraction in fractions):
        raise ValueError("a weight must be above 0")
    unit = lcm(*(fraction.denominator for fraction in fractions))
    whole = [int(fraction * unit) for fraction in fractions]
    return tuple(number // gcd(*whole) for number in whole)
