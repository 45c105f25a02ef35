"""The Triton kernels compile without a GPU, within the shared memory of several."""

import math

import pytest
import torch

from model.attention import triton_attention, triton_kernels
from model.attention.triton_attention import KERNELS, Tiles, one_edge, tiles_for
from tests.machine_code import elsewhere
from tests.model.attention.kernel_builds import KINDS, SHARED_MEMORY, tiles_that_ship


@pytest.mark.long
@pytest.mark.parametrize(
    ("capability", "head_size", "dtype", "switches", "spilled"),
    [
        (90, 64, "bfloat16", [], 256),
        (86, 64, "float32", [], 2048),
        (80, 128, "float16", ["BIASED"], 2048),
    ],
)
def test_kernels_compile(
    capability: int, head_size: int, dtype: str, switches: list[str], spilled: int
) -> None:
    """Spilled are at most this many bytes of registers in each kernel.

    Only where fewer registers were faster may the assembler run products one after another.
    """
    case = capability, head_size, dtype, *switches
    found = elsewhere("tests.model.attention.kernel_builds", *case)
    assert list(found) == list(KERNELS)
    tiles = tiles_that_ship(capability, head_size, dtype)
    for name, one in found.items():
        assert one["shared"] <= SHARED_MEMORY[capability]
        assert not one["serialised"] or tiles[name].registers
        assert one["spilled"] <= spilled


@pytest.mark.parametrize("kernel", KERNELS)
def test_no_number_compiles_a_kernel_again(kernel: str) -> None:
    """Triton makes a constant of a whole number that is 1, and another kernel of a multiple of 16.

    Such as the number of tokens, which differs in every step.
    """
    made = getattr(triton_attention, f"{kernel}_kernel")
    numbers = {
        name for name in made.arg_names
        if not name.startswith("all_") and not name.endswith("_ptr") and name not in ("tables", "C")
    }  # fmt: skip
    fractions = {name for name, kind in KINDS.items() if kind == "fp32"}
    assert numbers - fractions <= set(triton_kernels.NUMBERS)


@pytest.mark.parametrize("head_size", triton_attention.HEAD_SIZES)
@pytest.mark.parametrize("dtype", triton_attention.DTYPES)
@pytest.mark.parametrize("shared", SHARED_MEMORY.values())
def test_the_kernel_of_keys_finds_the_rows_it_reads(
    head_size: int, dtype: torch.dtype, shared: int
) -> None:
    """`queries_kernel` writes whole tiles of its own, of which `keys_kernel` reads whole parts."""
    tiles = tiles_for(head_size, dtype, shared)
    assert tiles["queries"].queries % tiles["keys"].queries == 0


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
