"""Kernels of dropout, residual and LayerNorm: compiled for CPUs, and Triton's.

Without a GPU Triton's run in the interpreter.
"""

import pytest
import torch
from torch.nn import functional as F

from model.cpu_add_norm import CpuAddNorm
from model.fused import add_norm, triton_add_norm
from model.fused.add_norm import fused
from model.fused.dropout import Dropout
from model.fused.triton_add_norm import AddNorm
from tests.model.test_cpu_kernels import needs_kernels
from tests.model.test_modeling import build, ids

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EPS = 1e-12
FUNCTIONS = [AddNorm, pytest.param(CpuAddNorm, marks=needs_kernels)]


def operands(function, rows: int, width: int, dtype=torch.float32) -> list[torch.Tensor]:
    """x, residual, weight, bias."""
    device = "cpu" if function is CpuAddNorm else DEVICE
    torch.manual_seed(0)
    shapes = (3, rows, width), (3, rows, width), (width,), (width,)
    made = [torch.randn(shape, device=device) for shape in shapes]
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


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(("rows", "width"), [(1, 5), (7, 64), (11, 768), (40, 130)])
def test_against_float64(function, rows: int, width: int) -> None:
    inputs = operands(function, rows, width)
    found = results(lambda *x: function.apply(*x, EPS, 0.0), inputs)
    for ours, exact in zip(found, results(reference, inputs), strict=True):
        torch.testing.assert_close(ours.double(), exact.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("function", "dtype"),
    [
        (AddNorm, torch.bfloat16),
        (AddNorm, torch.float16),
        pytest.param(CpuAddNorm, torch.bfloat16, marks=needs_kernels),
    ],
)
def test_half_precision_is_no_worse_than_torch(function, dtype: torch.dtype) -> None:
    inputs = operands(function, 20, 96, dtype)
    exact = results(reference, [x.detach().double().requires_grad_() for x in inputs])
    ours = results(lambda *x: function.apply(*x, EPS, 0.0), inputs)
    torchs = results(lambda x, r, w, b: F.layer_norm(x + r, x.shape[-1:], w, b, EPS), inputs)
    # Triton's interpreter cuts bfloat16 off where a GPU rounds: twice the error.
    cut_off = function is AddNorm and dtype == torch.bfloat16 and DEVICE == "cpu"
    for one, other, right in zip(ours, torchs, exact, strict=True):
        error, theirs = ((y.double() - right).square().mean().sqrt() for y in (one, other))
        assert error <= (2.2 if cut_off else 1.1) * theirs


@pytest.mark.parametrize("function", FUNCTIONS)
def test_dropout(function) -> None:
    """What the backward pass drops is what the forward pass dropped."""
    rate = 0.25
    inputs = operands(function, 50, 200)
    found = results(lambda *x: function.apply(*x, EPS, rate), inputs)
    kept = (found[1] != 0).double()
    assert abs(kept.mean().item() - (1 - rate)) < 0.01
    assert abs((kept[:, :, 1:] * kept[:, :, :-1]).mean().item() - (1 - rate) ** 2) < 0.01
    assert abs((kept[:, 1:] * kept[:, :-1]).mean().item() - (1 - rate) ** 2) < 0.01
    exact = results(lambda *x: reference(*x, kept / (1 - rate)), inputs)
    for ours, right in zip(found, exact, strict=True):
        torch.testing.assert_close(ours.double(), right.double(), rtol=1e-5, atol=1e-5)


@needs_kernels
@pytest.mark.parametrize("spread", [0.0, 1e-3])
def test_small_deviations_from_a_large_mean(spread: float) -> None:
    """No further from the definition than torch: a mean's rounding is not taken for a deviation."""
    torch.manual_seed(0)
    x = 7.7 + spread * torch.randn(20, 64)
    inputs = [x, torch.zeros_like(x), torch.ones(64), torch.zeros(64)]
    exact = reference(*inputs)
    found = CpuAddNorm.apply(*inputs, EPS, 0.0)
    torchs = F.layer_norm(x, (64,), eps=EPS)
    assert (found - exact).abs().max() <= 2 * (torchs - exact).abs().max() + 1e-6


@pytest.mark.parametrize("function", FUNCTIONS)
def test_seeds(function) -> None:
    inputs = operands(function, 4, 64)

    def out(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return function.apply(*inputs, EPS, 0.5)

    assert torch.equal(out(1), out(1))
    assert not torch.equal(out(1), out(2))


@needs_kernels
def test_threads_share_the_rows_out() -> None:
    inputs, found = operands(CpuAddNorm, 50, 64), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        found.append(results(lambda *x: CpuAddNorm.apply(*x, EPS, 0.25), inputs))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_network_with_it(monkeypatch, function) -> None:
    """The layers take it where it suits, and give what they gave without."""
    device = "cpu" if function is CpuAddNorm else DEVICE
    net = build().eval().to(device)
    tokens = ids(2, 9).to(device)
    monkeypatch.setattr(triton_add_norm, "DEVICES", ())
    with monkeypatch.context() as none:
        none.setattr(add_norm, "kernels_suit", lambda x: False)
        without = net(tokens).last_hidden_state
    if function is AddNorm:
        monkeypatch.setattr(add_norm, "kernels_suit", lambda x: False)
        monkeypatch.setattr(triton_add_norm, "DEVICES", (device,))
    rates, apply = [], function.apply

    def counted(*operands):
        rates.append(operands[-1])
        return apply(*operands)

    monkeypatch.setattr(function, "apply", counted)
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


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_it_suits(monkeypatch, function) -> None:
    x = torch.zeros(2, 3, 8, device="cpu")
    norm, dropout = torch.nn.LayerNorm(8, device="cpu"), Dropout(0.1)
    with monkeypatch.context() as none:
        none.setattr(add_norm, "kernels_suit", lambda x: False)
        assert fused(norm, dropout, x, x) is None
    if function is AddNorm:
        monkeypatch.setattr(add_norm, "kernels_suit", lambda x: False)
        monkeypatch.setattr(triton_add_norm, "DEVICES", ("cpu",))
    assert fused(norm, dropout, x, x) is function
    assert fused(torch.nn.LayerNorm(4, device="cpu"), dropout, x, x) is None
    assert fused(norm, dropout, x, x[:1]) is None
    assert fused(norm.double(), dropout, x.double(), x.double()) is None
    norm.float()
    assert fused(norm, Dropout(0.001), x, x) is None
    with torch.autocast("cpu"):
        assert fused(norm, dropout, x, x) is None
    dropout.register_forward_hook(lambda *_: None)
    assert fused(norm, dropout, x, x) is None
