"""Cross-entropy of the scores of a linear layer, computed for a few rows at a time.

Scores over a vocabulary need more memory than anything else: they, their float32 copy and their
gradient are M·V numbers each. Here each block of rows is turned at once into its part of all
gradients (as in Liger Kernel, https://arxiv.org/abs/2410.10989), so that nothing of it is kept.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..traceable import Traceable
from .operators import check_transforms, operator

try:
    from .triton_loss import triton_row_losses

    HAS_TRITON = True
except ImportError:  # torch brings no Triton for CPUs and for some systems
    HAS_TRITON = False

ELEMENTS = {"cpu": 2**24, "cuda": 2**27}
"""Scores that exist at a time: 64 MiB in float32 on a CPU, 256 MiB in half precision on a GPU."""


class Decoder(Traceable, nn.Linear):
    """A linear layer whose outputs are the scores of classes, such as the words of a vocabulary."""

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        """x [..., n] → scores [..., V]; with labels the results of `linear_cross_entropy`."""
        if labels is None:
            return super().forward(x)
        return linear_cross_entropy(x, self.weight, self.bias, labels)


def linear_cross_entropy(
    x: Tensor, weight: Tensor, bias: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Sum of the cross-entropies in nats (float32 scalar), and whether the best class is the label.

    x [M, n], weight [V, n], bias [V], labels int64 [M] → (loss, bool [M]). The gradients are
    computed with the loss.
    """
    check_transforms()
    wanted = torch.is_grad_enabled() and any(t.requires_grad for t in (x, weight, bias))
    total, right, *_ = cross_entropy(x, weight, bias, labels, wanted)
    return total, right


def _fake(
    x: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, wanted: bool
) -> tuple[Tensor, ...]:
    total, right = x.new_empty((), dtype=torch.float32), torch.empty_like(labels, dtype=torch.bool)
    return (
        total,
        right,
        *(like.new_empty(like.shape if wanted else 0) for like in (x, weight, bias)),
    )


@operator(fake=_fake)
def cross_entropy(
    x: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, wanted: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Loss, which rows are right, and the gradients of x, weight and bias, empty unless wanted."""
    total, right, d_x, d_weight, d_bias = _fake(x, weight, bias, labels, wanted)
    total.zero_()
    rows = max(1, ELEMENTS.get(x.device.type, ELEMENTS["cpu"]) // len(weight))
    losses_of = triton_row_losses if x.device.type == "cuda" and HAS_TRITON else row_losses
    blocks = len(x) > rows
    if wanted:
        # A sum over blocks is kept in float32; a single block needs no sum.
        d_weight = torch.zeros_like(weight, dtype=torch.float32 if blocks else None)
        d_bias = torch.zeros_like(bias, dtype=torch.float32)
    for first in range(0, len(x), rows):
        part = slice(first, first + rows)
        scores = F.linear(x[part], weight, bias)
        losses, right[part], slopes = losses_of(scores, labels[part], wanted)
        total += losses.sum()
        if wanted:
            d_bias += slopes.sum(0, dtype=torch.float32)
            slopes = slopes.to(x.dtype)
            torch.mm(slopes, weight, out=d_x[part])
            if blocks:
                d_weight += slopes.T @ x[part]
            else:
                torch.mm(slopes.T, x, out=d_weight)
    return total, right, d_x, d_weight.to(weight.dtype), d_bias.to(bias.dtype)


def row_losses(scores: Tensor, labels: Tensor, wanted: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropies, where the highest score is right, and the gradients of the scores.

    scores [R, V], which it may overwrite, labels int64 [R] → float32 [R], bool [R], [R, V]. Without
    `wanted` the last result has no meaning.
    """
    scores, chosen = scores.float(), labels[:, None]
    right = scores.argmax(-1) == labels
    lse = scores.logsumexp(-1, keepdim=True)
    losses = (lse - scores.gather(1, chosen)).squeeze(1)
    if wanted:
        scores.sub_(lse).exp_()
        scores.scatter_add_(1, chosen, scores.new_full(chosen.shape, -1.0))
    return losses, right, scores


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*output[2:])


def _backward(ctx: Any, grad: Tensor, *_: None) -> tuple[Tensor | None, ...]:
    return *(gradient * grad for gradient in ctx.saved_tensors), None, None


cross_entropy.register_autograd(_backward, setup_context=_save_for_backward)
