"""Kernels compiled for CPUs; their results are tested with the other implementations' too."""

import shutil
from unittest.mock import patch

import pytest
import torch

from model import cpu_tiles
from model.cpu_fused_attention import FusedAttention
from model.cpu_kernels import LIBRARY, kernels_suit
from model.relative_attention import eager_attention, position_table
from tests.model.attention_cases import operands

BUILT = kernels_suit(torch.empty(0))
needs_kernels = pytest.mark.skipif(not BUILT, reason=f"{LIBRARY} is not built: no C compiler")


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_they_are_built() -> None:
    assert BUILT, "stale, or never built: pip install -e . --no-build-isolation"


def with_its_gradients(function, q, k, v, *args):
    context = function(q, k, v, *args)
    probe = torch.cos(torch.arange(context.numel(), dtype=torch.float64)).view(context.shape)
    return context, *torch.autograd.grad((context * probe).sum(), [q, k, v])


@needs_kernels
@pytest.mark.parametrize("tile_bytes", [1, 2**21])
def test_dropout_is_that_of_the_definition(tile_bytes: int) -> None:
    """Values of one key each tell what is dropped; with that mask the definition has to agree."""
    count, rate = 150, 0.25
    q, k, _ = operands(count, count, batch=2, heads=2, d=16)
    table = position_table(16, 20)
    each = torch.eye(count).expand(2, 2, -1, -1)
    with patch.object(cpu_tiles, "TILE_BYTES", tile_bytes):
        torch.manual_seed(5)
        # All keys alike, and positions that add nothing to the values.
        alike = torch.zeros(2, 2, count, count)
        keep = FusedAttention.apply(alike, alike, each, torch.zeros(3, count), None, rate, 0)
        keep = (keep > 0).double() / (1 - rate)
        v = operands(count, count, batch=2, heads=2, d=16, seed=1)[2]
        torch.manual_seed(5)
        found = with_its_gradients(FusedAttention.apply, q, k, v, table, None, rate, 0)

    def definition(q, k, v):
        return eager_attention(q, k, v, table.double(), head_mask=keep)[0]

    wide = [x.detach().double().requires_grad_() for x in (q, k, v)]
    for one, other in zip(found, with_its_gradients(definition, *wide), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-5)


@needs_kernels
def test_neither_tiles_nor_threads_change_what_is_dropped() -> None:
    q, k, v = operands(300, 300, batch=1, heads=3, d=16)
    found = []
    for threads, tile_bytes in ((1, 1), (3, 2**18), (2, 2**24)):
        torch.set_num_threads(threads)
        with patch.object(cpu_tiles, "TILE_BYTES", tile_bytes):
            torch.manual_seed(5)
            table = position_table(16, 20)
            found.append(FusedAttention.apply(q, k, v, table, None, 0.25, 0))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-6, atol=1e-6)


@needs_kernels
def test_exponentials_over_their_whole_range() -> None:
    """One key's score is 0, the others' down to where float32 ends."""
    scores = torch.linspace(0, -110, 4001)
    k = scores[None, None, :, None].contiguous()
    weights = FusedAttention.apply(
        torch.ones(1, 1, 1, 1), k, torch.ones_like(k), torch.zeros(3, 1), None, 0.0, 0
    )
    torch.testing.assert_close(weights, torch.ones(1, 1, 1, 1), rtol=1e-6, atol=0)
    for near, value in ((100, 0.5), (2000, -0.5), (3163, 2.0)):
        v = torch.zeros_like(k)
        v[:, :, near] = value
        found = FusedAttention.apply(torch.ones(1, 1, 1, 1), k, v, torch.zeros(3, 1), None, 0.0, 0)
        expected = (scores.double().softmax(0)[near] * value).float().view(1, 1, 1, 1)
        torch.testing.assert_close(found, expected, rtol=2e-6, atol=1e-37)
