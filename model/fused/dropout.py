"""Dropout for CPUs, at a tenth of the cost of `torch.nn.functional.dropout` there.

Drawing one Bernoulli number an element takes longer than the arithmetic around it. A 64-bit draw
holds eight bytes, and a byte below a threshold drops an element. The backward pass draws the mask
again from the seed, so that no mask is kept. Triton's kernels have the same rates and seeds.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .operators import only_torch_operators, operator, transforms_are_active

INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integer types by the bytes of an element"""
LEVELS = 256
"""A random byte decides whether an element is dropped: rates are rounded to a 256th."""


def new_seed() -> Tensor:
    """int64 scalar on the CPU, drawn from torch's generator: `torch.manual_seed` determines it.

    Reading it waits for no device.
    """
    return torch.randint(2**48, (), dtype=torch.int64, device="cpu")


def drop_below(rate: float) -> int:
    """How many of the LEVELS of a byte drop an element."""
    return round(rate * LEVELS)


def byte_tells(rate: float) -> bool:
    """Whether some levels drop an element and others keep it."""
    return 0 < drop_below(rate) < LEVELS


def keep_scale(rate: float) -> float:
    """The factor of elements that are kept."""
    return LEVELS / (LEVELS - drop_below(rate))


def keep_mask(like: Tensor, rate: float, seed: int) -> Tensor:
    """Ones, and zeros with probability `rate`, in the shape of `like`, to multiply its `bits`."""
    # NumPy draws faster than torch, whose generator makes 64 bits of two draws.
    draws = np.random.SFC64(seed).random_raw(-(-like.numel() // 8))
    bytes_ = torch.from_numpy(draws.view(np.int8))[: like.numel()].view(like.shape)
    mask = torch.empty_like(like, dtype=INTEGERS[like.itemsize])
    return torch.ge(bytes_, drop_below(rate) - LEVELS // 2, out=mask)


def bits(x: Tensor) -> Tensor:
    """The memory of a float tensor as integers.

    Times one or zero they are the same number or zero. A CPU multiplies integers in a third of the
    time that half precision takes, which it converts to float32 and back.
    """
    return x.view(INTEGERS[x.itemsize])


@operator(fake=lambda x, rate, seed: torch.empty_like(x, memory_format=torch.contiguous_format))
def cpu_dropout(x: Tensor, rate: float, seed: Tensor) -> Tensor:
    """x with a share `rate` of zeros, the rest scaled; linear in x, so its own derivative."""
    x = x.contiguous()
    return keep_mask(x, rate, int(seed)).mul_(bits(x)).view(x.dtype).mul_(keep_scale(rate))


def _keep_seed(ctx: Any, inputs: tuple[Tensor, float, Tensor], output: Tensor) -> None:
    _, ctx.rate, seed = inputs
    ctx.save_for_backward(seed)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    (seed,) = ctx.saved_tensors
    return cpu_dropout(grad, ctx.rate, seed), None, None


cpu_dropout.register_autograd(_backward, setup_context=_keep_seed)


class Dropout(nn.Dropout):
    """`nn.Dropout`, by the operator for CPUs where that applies."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        if (
            x.device.type != "cpu"
            or not byte_tells(self.p)
            or only_torch_operators()
            or transforms_are_active()
        ):
            return F.dropout(x, self.p)
        return cpu_dropout(x, self.p, new_seed())
