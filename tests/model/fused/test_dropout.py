"""Dropout on CPUs: its rate, its independence, its backward pass."""

import math

import pytest
import torch

from model.fused.dropout import Dropout, keep_mask, keep_scale


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cheap_dropout(dtype: torch.dtype) -> None:
    layer = Dropout(0.1).train()
    x = torch.ones(1000, 1003, dtype=dtype, requires_grad=True)
    torch.manual_seed(0)
    out = layer(x)
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())
    rate = 26 / 256
    assert abs((out == 0).float().mean().item() - rate) < 0.0015
    assert out.max().item() == pytest.approx(1 / (1 - rate), rel=4e-3)
    spread = math.sqrt(rate * (1 - rate) / 1000)
    assert abs((out == 0).float().mean(0).std().item() - spread) < 0.001
    torch.manual_seed(0)
    assert torch.equal(layer(x), out)
    assert not torch.equal(layer(x), out)
    assert torch.equal(layer.eval()(x), x)


def test_keep_mask_bytes_are_independent() -> None:
    """Eight neighbours share one draw of 64 bits and must not be dropped together."""
    drops = 1 - keep_mask(torch.empty(800_000), 0.25, seed=11).view(-1, 8)
    correlation = torch.corrcoef(drops.T) - torch.eye(8)
    assert correlation.abs().max() < 0.015
    assert keep_scale(0.25) == pytest.approx(4 / 3)


@pytest.mark.parametrize("rate", [0.001, 0.999])
def test_rates_that_a_byte_cannot_tell(rate: float) -> None:
    """torch's own dropout knows them."""
    kept = Dropout(rate)(torch.ones(1000, 100)).count_nonzero() / 1e5
    assert abs(kept - (1 - rate)) < 0.0008
