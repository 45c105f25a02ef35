import pytest
import torch
from torch.nn import functional as F

from model.fused import cross_entropy as module
from model.fused.cross_entropy import Decoder, row_losses
from model.fused.triton_loss import triton_row_losses

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def on_the_device():
    with torch.device(DEVICE):
        yield


@pytest.mark.parametrize("kernel", [False, True])
@pytest.mark.parametrize("rows", [1, 7, 100])
@pytest.mark.parametrize("count", [0, 1, 20])
def test_blocks_add_up_to_the_whole(rows: int, count: int, kernel: bool, monkeypatch) -> None:
    monkeypatch.setattr(module, "ELEMENTS", {"cpu": rows * 31, DEVICE: rows * 31})
    monkeypatch.setattr(module, "HAS_TRITON", kernel)
    if kernel:
        monkeypatch.setattr(module, "row_losses", triton_row_losses)
    torch.manual_seed(0)
    layer = Decoder(5, 31)
    x, labels = torch.randn(count, 5, requires_grad=True), torch.randint(31, (count,))
    loss, right = layer(x, labels)
    wanted = [x, *layer.parameters()]
    found = torch.autograd.grad(loss * 0.3, wanted)

    wide = [tensor.detach().double().requires_grad_() for tensor in wanted]
    scores = F.linear(*wide)
    reference = F.cross_entropy(scores, labels, reduction="sum")
    torch.testing.assert_close(loss.double(), reference, rtol=1e-6, atol=1e-6)
    assert torch.equal(right, scores.argmax(-1) == labels)
    for one, other in zip(found, torch.autograd.grad(reference * 0.3, wide), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-6)


def test_bfloat16_is_about_as_exact_as_the_plain_way(monkeypatch) -> None:
    torch.manual_seed(0)
    layer = Decoder(64, 500).bfloat16()
    x = torch.randn(400, 64).bfloat16().requires_grad_()
    labels = torch.randint(500, (400,))
    wanted = [x, *layer.parameters()]
    wide = [tensor.detach().double().requires_grad_() for tensor in wanted]
    exact = F.cross_entropy(F.linear(*wide), labels, reduction="sum")
    exact = torch.autograd.grad(exact, wide)
    plain = F.cross_entropy(layer(x).float(), labels, reduction="sum")
    plain = torch.autograd.grad(plain, wanted)
    for elements in (2**24, 500 * 64):
        monkeypatch.setattr(module, "ELEMENTS", {"cpu": elements, DEVICE: elements})
        ours = torch.autograd.grad(layer(x, labels)[0], wanted)
        for a, b, c in zip(ours, plain, exact, strict=True):
            # The products of several blocks are rounded one by one.
            assert (a - c).norm() <= 1.4 * (b - c).norm()


@pytest.mark.parametrize(
    ("dtype", "classes"),
    [(torch.float32, 100), (torch.bfloat16, 21128), (torch.float16, 4096), (torch.float16, 1)],
)
def test_the_kernel_against_float64(dtype: torch.dtype, classes: int) -> None:
    torch.manual_seed(0)
    scores = (6 * torch.randn(5, classes)).to(dtype)
    scores[3] = scores[3, 0].clone()  # All alike: torch.argmax takes the first.
    scores[4, : classes // 2] = -torch.inf
    labels = torch.tensor([0, classes - 1, classes // 2, 0, classes - 1])
    wide = scores.double().requires_grad_()
    expected = F.cross_entropy(wide, labels, reduction="none")
    (slopes,) = torch.autograd.grad(expected.sum(), wide)
    losses, right, found = triton_row_losses(scores.clone(), labels, True)
    torch.testing.assert_close(losses.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.double(), slopes, rtol=2 * torch.finfo(dtype).eps, atol=1e-5)
    assert torch.equal(right, row_losses(scores.clone(), labels, False)[1])
    kept = scores.clone()
    triton_row_losses(kept, labels, False)
    assert torch.equal(kept, scores)


def test_without_gradients_none_are_made() -> None:
    layer, labels = Decoder(5, 31), torch.randint(31, (9,))
    x = torch.randn(9, 5)
    with torch.no_grad():
        loss, _ = layer(x, labels)
    torch.testing.assert_close(loss, F.cross_entropy(layer(x), labels, reduction="sum"))


def test_a_frozen_weight_has_no_gradient() -> None:
    layer, x = Decoder(5, 31), torch.randn(9, 5, requires_grad=True)
    layer.weight.requires_grad_(False)
    layer(x, torch.randint(31, (9,)))[0].backward()
    assert layer.weight.grad is None
    assert x.grad is not None
