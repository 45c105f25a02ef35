"""Weights of shard folders, as they are written and as whole numbers."""

import pytest

from pipeline.feed.weights import quotas, split_weights


def test_an_at_sign_in_a_path_is_not_a_weight():
    assert split_weights(["/a@b/c", "d"]) == (["/a@b/c", "d"], [])
    assert split_weights(["s3://k@b/c@0.5", "d@1"]) == (["s3://k@b/c", "d"], ["0.5", "1"])


@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        (["0.2", "0.6"], (1, 3)),
        (["1"], (1,)),
        (["2", "4.7", "1e-1"], (20, 47, 1)),
        (["3/4", "1/4"], (3, 1)),
    ],
)
def test_quotas_are_exact(weights, shares):
    assert quotas(weights) == shares


@pytest.mark.parametrize("weight", ["0", "-1", "x", ""])
def test_a_weight_that_is_not_a_number_above_0_is_refused(weight):
    with pytest.raises(ValueError):  # noqa: PT011
        quotas(["1", weight])
