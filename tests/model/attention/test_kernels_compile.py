"""The Triton kernels compile without a GPU, within the shared memory of several."""

import math

import pytest

from model.attention.triton_attention import Tiles, one_edge
from tests.machine_code import elsewhere
from tests.model.attention.kernel_builds import SHARED_MEMORY


@pytest.mark.slow
@pytest.mark.parametrize(
    ("capability", "head_size", "dtype"),
    [
        (90, 64, "bfloat16"),
        (86, 64, "float16"),
        (86, 128, "float32"),
        (80, 128, "bfloat16"),
    ],
)
def test_kernels_compile(capability: int, head_size: int, dtype: str) -> None:
    found = elsewhere("tests.model.attention.kernel_builds", capability, head_size, dtype)
    assert len(found) == 4
    assert max(one["shared"] for one in found.values()) <= SHARED_MEMORY[capability]
    assert not any(one["serialised"] for one in found.values())


@pytest.mark.slow
def test_kernels_compile_where_arguments_are_one() -> None:
    """Triton makes a constant of an argument that is 1."""
    ones = "heads", "queries", "keys", "drop_below"
    assert elsewhere("tests.model.attention.kernel_builds", 90, 64, "bfloat16", "BIASED", *ones)


@pytest.mark.parametrize(
    ("queries", "keys", "clip", "offset"),
    [
        (128, 64, 64, 0),
        (128, 32, 64, 0),
        (32, 32, 16, 0),
        (32, 32, 16, 1),
        (32, 32, 31, 7),
        (16, 32, 64, 3),
        (64, 64, 63, 0),
        (64, 64, 62, 0),
    ],
)
def test_one_edge(queries: int, keys: int, clip: int, offset: int) -> None:
    """Whether some tile holds distances on both sides of the band, by looking at all of them."""
    step = math.gcd(queries, keys)
    nearest = range(-20 * step - offset, 20 * step - offset + 1, step)
    both = any(first - queries + 1 < -clip and first + keys - 1 > clip for first in nearest)
    assert one_edge(Tiles(queries, keys, 4, 1), clip, offset) == (not both)
