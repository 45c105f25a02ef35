"""The algebra of the kernels, in float64."""

import numpy as np
import pytest

from model.attention.definition import position_table
from model.attention.table_factors import table_factors


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
