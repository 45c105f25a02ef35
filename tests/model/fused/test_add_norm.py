"""Dropout, residual and LayerNorm in one Triton kernel; without a GPU it is interpreted."""

import pytest
import torch
from torch.nn import functional as F

from model.fused import triton_add_norm as kernels
from model.fused.add_norm import AddNorm
from model.fused.dropout_rates import new_seed
from model.fused.triton_add_norm import triton_add_norm
from tests.model.test_modeling import build, ids

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EPS = 1e-12


def operands(rows: int, width: int, dtype=torch.float32) -> list[torch.Tensor]:
    """x, residual, weight, bias."""
    torch.manual_seed(0)
    shapes = (3, rows, width), (3, rows, width), (width,), (width,)
    made = [torch.randn(shape, device=DEVICE) for shape in shapes]
    return [x.to(dtype).requires_grad_() for x in made]


def fused(*inputs, rate: float = 0.0) -> torch.Tensor:
    return triton_add_norm(*inputs, EPS, rate, new_seed() if rate else None)[0]


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
    for ours, exact in zip(results(fused, inputs), results(reference, inputs), strict=True):
        torch.testing.assert_close(ours.double(), exact.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_no_worse_than_torch(dtype: torch.dtype) -> None:
    inputs = operands(20, 96, dtype)
    exact = results(reference, [x.detach().double().requires_grad_() for x in inputs])
    ours = results(fused, inputs)
    torchs = results(lambda x, r, w, b: F.layer_norm(x + r, x.shape[-1:], w, b, EPS), inputs)
    # Triton's interpreter cuts bfloat16 off where a GPU rounds: twice the error.
    allowed = 2.2 if dtype == torch.bfloat16 and DEVICE == "cpu" else 1.1
    for one, other, right in zip(ours, torchs, exact, strict=True):
        error, theirs = ((y.double() - right).square().mean().sqrt() for y in (one, other))
        assert error <= allowed * theirs


def test_dropout() -> None:
    """The backward pass drops what the forward pass dropped."""
    rate = 0.25
    inputs = operands(50, 200)
    found = results(lambda *x: fused(*x, rate=rate), inputs)
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
        return fused(*inputs, rate=0.5)

    assert torch.equal(out(1), out(1))
    assert not torch.equal(out(1), out(2))


@pytest.fixture
def on_this_device(monkeypatch):
    monkeypatch.setattr(kernels, "DEVICES", (DEVICE,))


@pytest.mark.usefixtures("on_this_device")
def test_a_network_with_it(monkeypatch) -> None:
    """The layers use it with every attention but eager, and give what they give without it."""
    net = build().eval().to(DEVICE)
    tokens = ids(2, 9).to(DEVICE)
    rows = []
    monkeypatch.setattr(
        "model.fused.add_norm.triton_add_norm",
        lambda x, *rest: rows.append(len(x)) or triton_add_norm(x, *rest),
    )
    found = net(tokens).last_hidden_state
    assert len(rows) == 4
    net.set_attn_implementation("eager")
    torch.testing.assert_close(net(tokens).last_hidden_state, found, rtol=1e-5, atol=1e-5)
    assert len(rows) == 4


@pytest.mark.usefixtures("on_this_device")
@pytest.mark.parametrize("obstacle", ["float64", "mixed", "dropout of all", "autocast"])
def test_what_it_does_not_fit(obstacle: str) -> None:
    """torch's operators compute it then."""
    norm = AddNorm(8, device=DEVICE)
    x = residual = torch.randn(2, 3, 8, device=DEVICE)
    rate = 1.0 if obstacle == "dropout of all" else 0.0
    if obstacle == "float64":
        norm, x, residual = norm.double(), x.double(), x.double()
    elif obstacle != "dropout of all":
        x = x.bfloat16()
    with torch.autocast(DEVICE, torch.bfloat16, enabled=obstacle == "autocast"):
        found = norm(x, residual, rate)
    expected = (0 if rate else x) + residual
    torch.testing.assert_close(found, F.layer_norm(expected, (8,), norm.weight, norm.bias))
