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


def keep_mask(like: Tensor, rate: float, seed: int) -> Tensor:
    """Ones, and zeros with probability `rate`, in the shape and type of `like`."""
    # NumPy draws faster than torch, whose generator makes 64 bits of two draws.
    draws = np.random.SFC64(seed).random_raw(-(-like.numel() // 8))
    bytes_ = torch.from_numpy(draws.view(np.int8))[: like.numel()].view(like.shape)
    mask = torch.empty(like.shape, dtype=like.dtype)
    return torch.ge(bytes_, drop_below(rate) - LEVELS // 2, out=mask)


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
        if not self.training or not byte_tells(self.p):
            return F.dropout(x, self.p, self.training)
        if x.device.type != "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return F.dropout(x, self.p)
        return _Drop.apply(x, self.p)
