"""Dropout on CPUs: its rate, its independence, its backward pass."""

import math

import pytest
import torch

from model.fused.dropout import Dropout, keep_mask, keep_scale, masks_by_sample, plain_dropout


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


def by_sample(x: torch.Tensor, keys: list[int], tokens: list[int]) -> torch.Tensor:
    torch.manual_seed(0)
    with masks_by_sample(torch.tensor(keys), torch.tensor(tokens)):
        return Dropout(0.25).train()(x)


def test_a_sample_has_the_same_mask_in_any_batch() -> None:
    first, second = by_sample(torch.ones(1, 9, 50), [4, 8], [4, 5])[0].split([4, 5])
    assert torch.equal(by_sample(torch.ones(1, 5, 50), [8], [5])[0], second)
    padded = by_sample(torch.ones(2, 7, 50), [8, 4], [5, 4])
    assert torch.equal(padded[0, :5], second)
    assert torch.equal(padded[1, :4], first)
    assert not torch.equal(first, second[:4])
    with pytest.raises(ValueError, match=r"do not hold samples of \[5, 5\] tokens"):
        by_sample(torch.ones(1, 9, 50), [8, 4], [5, 5])


def test_masks_of_samples_are_independent() -> None:
    """Neighbouring keys and successive calls, which differ in a word of the generator's state."""
    keys = list(range(64))
    torch.manual_seed(0)
    with masks_by_sample(torch.tensor(keys), torch.full((64,), 8)):
        layer, x = Dropout(0.25).train(), torch.ones(64, 8, 500)
        drops = torch.stack([layer(x) == 0 for _ in range(2)]).view(128, -1).float()
    assert drops.mean() == pytest.approx(0.25, abs=0.002)
    correlation = torch.corrcoef(drops) - torch.eye(128)
    assert correlation.abs().max() < 5.5 / math.sqrt(4000)


@pytest.mark.parametrize("rate", [0.001, 0.25])
def test_micro_batches_of_a_step_differ_also_by_operators_of_torch(rate: float) -> None:
    x = torch.ones(1, 1000, 100)
    assert not torch.equal(plain(x, rate, 3), plain(x, rate, 4))
    assert torch.equal(plain(x, rate, 3), plain(x, rate, 3))
    kept = plain(x, rate, 3)
    assert (kept != 0).float().mean() == pytest.approx(1 - rate, abs=0.006)
    assert kept.max() == pytest.approx(1 / (1 - rate))
    assert torch.equal(plain(x, 0.0, 3), x)
    assert not plain(x, 1.0, 3).any()


def plain(x: torch.Tensor, rate: float, key: int) -> torch.Tensor:
    torch.manual_seed(0)
    with masks_by_sample(torch.tensor([key]), torch.tensor([x.shape[1]])):
        return plain_dropout(x, rate)
