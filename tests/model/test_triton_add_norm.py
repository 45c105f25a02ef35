"""The Triton kernels of dropout, residual and LayerNorm; without a GPU in the interpreter."""

import pytest
import torch
from torch.nn import functional as F

from model import triton_add_norm
from model.cpu_dropout import Dropout
from model.triton_add_norm import AddNorm, add_norm_suits
from tests.model.test_modeling import build, ids

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EPS = 1e-12


def operands(rows: int, width: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """x, residual, weight, bias."""
    torch.manual_seed(0)
    shapes = (3, rows, width), (3, rows, width), (width,), (width,)
    made = [torch.randn(shape, device=DEVICE) for shape in shapes]
    return [x.to(dtype).requires_grad_() for x in made]


def reference(x, residual, weight, bias, kept=None):
    """In float64, with the elements of x that are kept, scaled."""
    x, residual, weight, bias = (y.double() for y in (x, residual, weight, bias))
    return F.layer_norm(
        (x if kept is None else x * kept) + residual, x.shape[-1:], weight, bias, EPS
    )


def results(function, inputs):
    out = function(*inputs)
    probe = torch.cos(torch.arange(out.numel(), device=out.device)).view(out.shape).to(out.dtype)
    return out, *torch.autograd.grad((out * probe).sum(), inputs)


@pytest.mark.parametrize(("rows", "width"), [(1, 5), (7, 64), (11, 768), (40, 130)])
def test_against_float64(rows: int, width: int) -> None:
    inputs = operands(rows, width)
    found = results(lambda *x: AddNorm.apply(*x, EPS, 0.0), inputs)
    for ours, exact in zip(found, results(reference, inputs), strict=True):
        torch.testing.assert_close(ours.double(), exact.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_no_worse_than_torch(dtype: torch.dtype) -> None:
    inputs = operands(20, 96, dtype)
    exact = results(reference, [x.detach().double().requires_grad_() for x in inputs])
    ours = results(lambda *x: AddNorm.apply(*x, EPS, 0.0), inputs)
    torchs = results(lambda x, r, w, b: F.layer_norm(x + r, x.shape[-1:], w, b, EPS), inputs)
    # Triton's interpreter cuts bfloat16 off where a GPU rounds: twice the error.
    allowed = 2.2 if dtype == torch.bfloat16 and DEVICE == "cpu" else 1.1
    for one, other, right in zip(ours, torchs, exact, strict=True):
        error, theirs = ((y.double() - right).square().mean().sqrt() for y in (one, other))
        assert error <= allowed * theirs


def test_dropout() -> None:
    """What the backward pass drops is what the forward pass dropped."""
    rate = 0.25
    inputs = operands(50, 200)
    found = results(lambda *x: AddNorm.apply(*x, EPS, rate), inputs)
    kept = (found[1] != 0).double()
    assert abs(kept.mean().item() - (1 - rate)) < 0.01
    assert abs((kept[:, :, 1:] * kept[:, :, :-1]).mean().item() - (1 - rate) ** 2) < 0.01
    assert abs((kept[:, 1:] * kept[:, :-1]).mean().item() - (1 - rate) ** 2) < 0.01
    exact = results(lambda *x: reference(*x, kept / (1 - rate)), inputs)
    for ours, right in zip(found, exact, strict=True):
        torch.testing.assert_close(ours.double(), right.double(), rtol=1e-5, atol=1e-5)


def test_seeds() -> None:
    inputs = operands(4, 64)

    def out(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return AddNorm.apply(*inputs, EPS, 0.5)

    assert torch.equal(out(1), out(1))
    assert not torch.equal(out(1), out(2))


def test_a_network_with_it(monkeypatch) -> None:
    """The layers take it where it suits, and give what they gave without."""
    net = build().eval().to(DEVICE)
    tokens = ids(2, 9).to(DEVICE)
    monkeypatch.setattr(triton_add_norm, "DEVICES", ())
    without = net(tokens).last_hidden_state
    monkeypatch.setattr(triton_add_norm, "DEVICES", (DEVICE,))
    rates, apply = [], AddNorm.apply

    def counted(*operands):
        rates.append(operands[-1])
        return apply(*operands)

    monkeypatch.setattr(AddNorm, "apply", counted)
    torch.testing.assert_close(net(tokens).last_hidden_state, without, rtol=1e-4, atol=1e-5)
    assert rates == [0.0] * 2 * net.config.num_hidden_layers
    net.train()(tokens).last_hidden_state.sum().backward()
    assert rates[-1] == net.config.hidden_dropout_prob > 0
    norm = net.encoder.layer[0].output.LayerNorm
    assert norm.weight.grad.isfinite().all()
    calls = []
    norm.register_forward_hook(lambda *_: calls.append(norm))
    net(tokens)
    assert calls == [norm]


def test_what_it_suits(monkeypatch) -> None:
    x = torch.zeros(2, 3, 8, device="cpu")
    norm, dropout = torch.nn.LayerNorm(8, device="cpu"), Dropout(0.1)
    assert not add_norm_suits(norm, dropout, x, x)
    monkeypatch.setattr(triton_add_norm, "DEVICES", ("cpu",))
    assert add_norm_suits(norm, dropout, x, x)
    assert not add_norm_suits(torch.nn.LayerNorm(4, device="cpu"), dropout, x, x)
    assert not add_norm_suits(norm, dropout, x, x[:1])
    assert not add_norm_suits(norm, dropout, x.double(), x.double())
    assert not add_norm_suits(norm, Dropout(0.001), x, x)
    with torch.autocast("cpu"):
        assert not add_norm_suits(norm, dropout, x, x)
    dropout.register_forward_hook(lambda *_: None)
    assert not add_norm_suits(norm, dropout, x, x)
