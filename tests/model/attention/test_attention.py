"""Every implementation against the definition, written out in float64."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from model.attention import tiled
from model.attention.definition import eager_attention, position_table
from model.attention.tiled import tiled_attention
from model.fused.dropout import masks_by_sample
from tests.model.attention.cases import (
    assert_close,
    attend,
    errors,
    expected,
    kept_for_backward,
    masks,
    operands,
    results,
)

IMPLEMENTATIONS = ["eager", "sdpa"]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@settings(max_examples=25, deadline=None, derandomize=True)
@example(queries=1, extra=0, clip=1, heads=1, kind="none", crossing=True)  # no key in the band
@given(
    queries=st.integers(1, 40),
    extra=st.integers(0, 20),
    clip=st.sampled_from([0, 1, 3, 7, 64]),
    heads=st.integers(1, 5),
    kind=st.sampled_from(["none", "padding", "full", "rows"]),
    crossing=st.booleans(),
)
def test_float32(implementation, queries, extra, clip, heads, kind, crossing) -> None:
    """`extra` keys stand before the queries (a cache), or it is cross-attention."""
    keys, offset = (queries + extra, extra) if not crossing else (extra + 1, 5)
    q, k, v = operands(queries, keys, heads=heads)
    mask = masks(kind, 2, queries, keys)
    found = results(implementation, q, k, v, clip, mask, offset)
    assert_close(found, expected(q, k, v, clip, mask, offset))


@pytest.mark.parametrize("tile_bytes", [1, 2**18, 2**24])
@pytest.mark.parametrize("clip", [0, 16, 64])
def test_tiles_of_any_size(tile_bytes: int, clip: int, monkeypatch) -> None:
    monkeypatch.setattr(tiled, "TILE_BYTES", tile_bytes)
    q, k, v = operands(300, 300, batch=1, heads=3, d=16)
    assert_close(results("sdpa", q, k, v, clip), expected(q, k, v, clip))


@pytest.mark.parametrize("kind", ["none", "padding", "rows"])
def test_bfloat16_is_no_worse_than_eager(kind: str) -> None:
    q, k, v = operands(150, 150, batch=1, heads=2, d=16, dtype=torch.bfloat16)
    mask = masks(kind, 1, 150, 150)
    assert all(torch.isfinite(x).all() for x in results("sdpa", q, k, v, 32, mask))
    for ours, eager in zip(*(errors(x, q, k, v, 32, mask) for x in ("sdpa", "eager")), strict=True):
        assert ours <= 1.1 * eager


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_dropout_is_unbiased_and_drops_its_share(implementation: str) -> None:
    """Without positions and with values of one, a context is the kept share over 1 - p."""
    q, k, v = operands(64, 256, batch=2, heads=4, d=16)
    table = torch.zeros(3, 16)
    torch.manual_seed(1)
    with torch.no_grad():
        kept, _ = attend(implementation, q * 0, k, torch.ones_like(v), table, dropout=0.1)
    shares = kept[..., 0]
    assert abs(shares.mean().item() - 1) < 0.004
    # Binomial: √(p / (1 - p) / 256) = 0.0208
    assert abs(shares.std().item() - 0.0208) < 0.002


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_dropout_is_the_same_forwards_and_backwards(implementation: str) -> None:
    """The context is linear in v: its gradient has to give the context back."""
    q, k, v = operands(150, 150, batch=1, heads=2, d=16)
    table = position_table(16, 8)

    def run(values):
        torch.manual_seed(7)
        return attend(implementation, q, k, values, table, dropout=0.3)[0]

    probe = torch.randn(run(v).shape)
    (gradient,) = torch.autograd.grad((run(v) * probe).sum(), v)
    direction = torch.randn_like(v)
    change = ((run(v + direction) - run(v)) * probe).sum()
    torch.testing.assert_close((gradient * direction).sum(), change, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_gradients_of_scores_under_dropout(implementation: str) -> None:
    """Against finite differences in float64, the mask held fixed by the seed."""
    q, k, v = (x.detach().double().requires_grad_() for x in operands(5, 7, 1, 2, 4))
    table = position_table(4, 3).double()

    def run(*tensors):
        torch.manual_seed(3)
        return attend(implementation, *tensors, table, dropout=0.4, offset=2)[0]

    torch.autograd.gradcheck(run, (q, k, v))


@pytest.mark.parametrize("tile_bytes", [1, 2**17, 2**24])
def test_a_sample_has_the_same_dropout_in_any_batch(tile_bytes: int, monkeypatch) -> None:
    """Alone, or beside a longer one and padded, whatever the tiles are; also its gradients."""
    monkeypatch.setattr(tiled, "TILE_BYTES", tile_bytes)
    short, longest = 150, 300
    inputs, table = operands(longest, longest, batch=2), position_table(8, 16)
    mask = torch.zeros(2, 1, 1, longest)
    mask[1, ..., short:] = torch.finfo(torch.float32).min

    def attended(parts, keys, tokens, mask=None):
        """Of the last sample: its context, and its part of the gradients."""
        torch.manual_seed(0)
        with masks_by_sample(torch.tensor(keys), torch.tensor(tokens)):
            context = attend("sdpa", *parts, table, mask, dropout=0.25)[0][-1, :, :short]
            probe = torch.cos(torch.arange(context.numel())).view(context.shape)
            gradients = torch.autograd.grad((context * probe).sum(), parts)
        return context, *(gradient[-1, :, :short] for gradient in gradients)

    alone = [x.detach()[1:, :, :short].requires_grad_() for x in inputs]
    assert_close(attended(inputs, [4, 8], [longest, short], mask), attended(alone, [8], [short]))
    other = attended(alone, [4], [short])[0]
    assert not torch.allclose(other, attended(alone, [8], [short])[0], atol=1e-2)


def test_memory_is_linear_in_length() -> None:
    """No [queries, keys] matrix is kept for the backward pass."""
    assert kept_for_backward("sdpa", 512) <= 6


def test_position_table() -> None:
    table = position_table(8, 5)
    assert table.shape == (11, 8)
    assert table.dtype == torch.float32
    row = [f(7 * 10000 ** (-2 * i / 8)) for i in range(4) for f in (np.sin, np.cos)]
    np.testing.assert_allclose(table[7].numpy(), row, atol=1e-6)


@pytest.mark.parametrize("rate", [0.001, 0.999])
def test_rates_that_a_byte_cannot_tell(rate: float) -> None:
    """Eager attention knows them."""
    q, k, v = operands(9, 9, batch=1, heads=1, d=8)
    for found in results("sdpa", q, k, v, 3, dropout=rate):
        assert found.isfinite().all()


@pytest.mark.parametrize("shape", [(1, 1, 7, 1), (2, 1, 1, 7), (7,), (2, 3, 7, 7)])
def test_masks_of_any_shape(shape: tuple[int, ...]) -> None:
    q, k, v = operands(7, 7)
    mask, table = torch.randn(shape), position_table(8, 3)
    eager = eager_attention(q, k, v, table, mask)[0]
    torch.testing.assert_close(tiled_attention(q, k, v, table, mask), eager)


@pytest.mark.parametrize(("queries", "keys"), [(0, 3), (0, 0)])
def test_no_queries(queries: int, keys: int) -> None:
    q, k, v = operands(queries, keys)
    assert tiled_attention(q, k, v, position_table(8, 3)).shape == q.shape


@pytest.mark.parametrize("part", ["forward", "backward"])
def test_autocast_does_not_reach_into_operators(part: str) -> None:
    inputs = operands(40, 40, batch=2, heads=2, d=16)
    plain = results("sdpa", *inputs, 8)
    with torch.autocast("cpu", torch.bfloat16, enabled=part == "forward"):
        context = tiled_attention(*inputs, position_table(16, 8))
    probe = torch.cos(torch.arange(context.numel(), dtype=torch.float64)).view(context.shape)
    loss = (context * probe).sum()
    with torch.autocast("cpu", torch.bfloat16, enabled=part == "backward"):
        gradients = torch.autograd.grad(loss, inputs)
    assert_close((context, *gradients), plain, 1e-6)
