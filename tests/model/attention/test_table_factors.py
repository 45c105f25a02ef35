"""The algebra of the kernels, in float64."""

import math

import numpy as np
import pytest
import torch

from model.attention.definition import position_table
from model.attention.table_factors import table_factors
from tests.model.attention.cases import definition, operands


@pytest.mark.parametrize("head_size", [16, 32, 64, 128])
@pytest.mark.parametrize("clip", [0, 1, 7, 16, 64, 100, 256])
def test_factors_give_the_table(head_size: int, clip: int) -> None:
    factors = table_factors(head_size, clip)
    width = len(factors.frequencies)
    assert width & (width - 1) == 0
    assert 16 <= width <= max(16, head_size // 2)
    waves = np.arange(-clip, clip + 1)[:, None] * factors.frequencies
    product = np.sin(waves) @ factors.sine + np.cos(waves) @ factors.cosine
    rate = 10000 ** (-np.arange(0, head_size, 2) / head_size)
    angles = np.arange(2 * clip + 1)[:, None] * rate
    np.testing.assert_allclose(product[:, 0::2], np.sin(angles), atol=1e-9)
    np.testing.assert_allclose(product[:, 1::2], np.cos(angles), atol=1e-9)
    # The float32 table rounds its angles, of up to 2 · clip.
    table = position_table(head_size, clip).numpy()
    np.testing.assert_allclose(product, table, atol=1e-6 + 3e-7 * clip)
    np.testing.assert_allclose(factors.ends, product[[0, -1]], atol=1e-9)
    # Large entries would cancel each other, and in bfloat16 not well.
    assert max(np.abs(factors.sine).max(), np.abs(factors.cosine).max()) < 5


def test_the_usual_head_needs_sixteen_frequencies() -> None:
    assert len(table_factors(64, 64).frequencies) == 16


def test_three_ordinary_attentions_are_the_relative_one() -> None:
    """Band with keys (k, waves) and values (v, waves), left, right; merged by log-sum-exp."""
    d, clip, length = 64, 64, 300
    q, k, v = (x[0].detach().double() for x in operands(length, length, 1, 2, d))
    found = table_factors(d, clip)
    sine, cosine, ends = (torch.from_numpy(x) for x in (found.sine, found.cosine, found.ends))
    angles = torch.arange(length)[:, None] * torch.from_numpy(found.frequencies)
    waves = torch.cat([angles.sin(), angles.cos()], 1)
    s, c = q @ sine.T, q @ cosine.T
    turned = torch.cat(
        [s * angles.cos() + c * angles.sin(), c * angles.cos() - s * angles.sin()], 2
    )
    distance = torch.arange(length) - torch.arange(length)[:, None]
    parts = []
    for inside, products in (
        (distance.abs() <= clip, turned @ waves.T),
        (distance < -clip, (q @ ends[0])[:, :, None]),
        (distance > clip, (q @ ends[1])[:, :, None]),
    ):
        scores = ((q @ k.mT + products) / math.sqrt(d)).masked_fill(~inside, -torch.inf)
        parts.append((scores.logsumexp(-1, keepdim=True), scores.softmax(-1).nan_to_num()))
    total = torch.cat([lse for lse, _ in parts], -1).logsumexp(-1, keepdim=True)
    band, left, right = ((lse - total).exp() * weights for lse, weights in parts)
    s, c = (band @ waves).chunk(2, -1)
    back = [s * angles.cos() - c * angles.sin(), c * angles.cos() + s * angles.sin()]
    context = (band + left + right) @ v + back[0] @ sine + back[1] @ cosine
    context += left.sum(-1, keepdim=True) * ends[0] + right.sum(-1, keepdim=True) * ends[1]
    torch.testing.assert_close(context, definition(q[None], k[None], v[None], clip)[0])
