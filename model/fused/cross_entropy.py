"""Cross-entropy of a linear layer's scores, of which only a few rows exist at a time.

Scores over a vocabulary dwarf everything else in memory: they, their float32 copy and their
gradient are M·V numbers each. Here a block of rows is turned into its share of all gradients at
once (as in Liger Kernel, https://arxiv.org/abs/2410.10989), so that nothing of it has to be kept.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ..plain_linear import is_plain

ELEMENTS = 2**24
"""Scores that exist at a time: 64 MiB in float32."""


@torch.compiler.disable  # It would be compiled anew for every number of rows.
def linear_cross_entropy(
    layer: nn.Linear, x: Tensor, labels: Tensor, weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Sum of the cross-entropies in nats (float32 scalar), and where the highest score is right.

    Args:
        layer: n → V.
        x: [M, n].
        labels: int64 [M].
        weight: [V, n], the layer's own under another name, see `tied_words.py`.
    """
    if is_plain(layer):
        weight = layer.weight if weight is None else weight
        return LinearCrossEntropy.apply(x, weight, layer.bias, labels)
    scores = layer(x).float()
    return F.cross_entropy(scores, labels, reduction="sum"), scores.argmax(-1) == labels


class LinearCrossEntropy(torch.autograd.Function):
    """The gradients are made with the loss; the backward pass scales them and gives them away."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        total = x.new_zeros((), dtype=torch.float32)
        right = torch.empty_like(labels, dtype=torch.bool)
        wanted = any(ctx.needs_input_grad[:3])
        rows = max(1, ELEMENTS // len(weight))
        d_x, d_weight = torch.empty_like(x), torch.empty(0)
        if wanted and 0 < len(x) <= rows:
            d_weight = torch.empty_like(weight)
        elif wanted:
            # A sum over blocks is kept in float32; a single block needs no sum.
            d_weight = torch.zeros_like(weight, dtype=torch.float32)
        d_bias = torch.zeros_like(bias, dtype=torch.float32)
        for first in range(0, len(x), rows):
            part = slice(first, first + rows)
            scores = F.linear(x[part], weight, bias).float()
            chosen = labels[part, None]
            right[part] = scores.argmax(-1) == labels[part]
            lse = scores.logsumexp(-1, keepdim=True)
            total += (lse - scores.gather(1, chosen)).sum()
            if wanted:
                slopes = scores.sub_(lse).exp_()
                slopes.scatter_add_(1, chosen, slopes.new_full(chosen.shape, -1.0))
                d_bias += slopes.sum(0)
                slopes = slopes.to(x.dtype)
                torch.mm(slopes, weight, out=d_x[part])
                if len(x) > rows:
                    d_weight += slopes.T @ x[part]
                else:
                    torch.mm(slopes.T, x, out=d_weight)
        if wanted:
            ctx.gradients = d_x, d_weight, d_bias
            ctx.dtype = weight.dtype
        ctx.mark_non_differentiable(right)
        return total, right

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        if ctx.gradients is None:
            raise RuntimeError("the gradients of this cross-entropy were already given away")
        d_x, d_weight, d_bias = (x.mul_(grad) for x in ctx.gradients)
        ctx.gradients = None
        return d_x, d_weight.to(ctx.dtype), d_bias.to(ctx.dtype), None
