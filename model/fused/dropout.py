"""Dropout for CPUs, at a tenth of the cost of `torch.nn.functional.dropout` there.

Drawing one Bernoulli number an element takes longer than the arithmetic around it. A 64-bit draw
holds eight bytes, and a byte below a threshold drops an element. The mask is not kept for
the backward pass: its seed is, and the mask is drawn again.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .dropout_rates import LEVELS, byte_tells, drop_below, keep_scale, new_seed

INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By the bytes of an element"""


def keep_mask(like: Tensor, rate: float, seed: int) -> Tensor:
    """Ones, and zeros with probability `rate`, in the shape of `like`, to multiply its `bits`."""
    # NumPy draws faster than torch, whose generator makes 64 bits of two draws.
    draws = np.random.SFC64(seed).random_raw(-(-like.numel() // 8))
    bytes_ = torch.from_numpy(draws.view(np.int8))[: like.numel()].view(like.shape)
    mask = torch.empty_like(like, dtype=INTEGERS[like.itemsize])
    return torch.ge(bytes_, drop_below(rate) - LEVELS // 2, out=mask)


def bits(x: Tensor) -> Tensor:
    """A float tensor's memory as integers.

    Times one or zero they are the same number or zero. A CPU multiplies them in a third of the
    time that it takes for half precision, which it converts to float32 and back.
    """
    return x.view(INTEGERS[x.itemsize])


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float) -> Tensor:
        ctx.rate, ctx.seed = rate, new_seed()
        return _dropped(x, rate, ctx.seed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _dropped(grad, ctx.rate, ctx.seed), None


def _dropped(x: Tensor, rate: float, seed: int) -> Tensor:
    return keep_mask(x, rate, seed).mul_(bits(x)).view(x.dtype).mul_(keep_scale(rate))


class Dropout(nn.Dropout):
    """`nn.Dropout` that takes the fast way where there is one."""

    @property
    def rate(self) -> float:
        """The share that is dropped now."""
        return self.p if self.training else 0.0

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not byte_tells(self.p):
            return F.dropout(x, self.p, self.training)
        if x.device.type != "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return F.dropout(x, self.p)
        return _Drop.apply(x, self.p)
