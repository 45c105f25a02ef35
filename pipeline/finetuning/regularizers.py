"""R-Drop and adversarial examples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from pipeline.finetuning.examples.features import IGNORED


def divergence_sum(
    first: Tensor, second: Tensor, target: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Sum over the targets of ½ [KL(p, q) + KL(q, p)] of two outputs for the same inputs.

    R-Drop, Liang et al. 2021 (arXiv 2106.14448). Targets of -100 are not counted. Of a regression
    it is the squared difference, which is to the squared error what this divergence is to the
    cross-entropy: both then belong to normal distributions of one variance around the outputs.

    Args:
        first, second: logits fp32 [..., K]; [..., 1] of a regression.
        target: [...] as `loss_sum` takes it.
        weights: fp32 [K], the weight of each label; None: 1.
    """
    target = target.to(first.device).flatten()
    if target.is_floating_point():
        return F.mse_loss(first, second, reduction="sum")
    p, q = F.log_softmax(first, dim=-1), F.log_softmax(second, dim=-1)
    # exp before the difference: a choice that is padding has p = q = 0 and finite logarithms.
    each = ((p.exp() - q.exp()) * (p - q)).sum(-1).flatten() / 2
    counted = target != IGNORED
    if weights is not None:
        each = each * weights[target.clamp(min=0)]
    return each[counted].sum()


def adversarial(gradient: Tensor, epsilon: float) -> Tensor:
    """How an example's embeddings move so that its loss rises: ε · g / |g|, of the same shape.

    Miyato et al. 2017 (arXiv 1605.07725), equation 5. The norm is that of all embeddings of an
    example, [B, ...], so that neither the batch nor a loss scale matters.
    """
    flat = gradient.flatten(1)
    # The squares of a small gradient would vanish. One of zeros stays as it is.
    flat = flat / flat.abs().amax(1, keepdim=True).clamp(min=torch.finfo(flat.dtype).tiny)
    length = flat.norm(dim=1, keepdim=True).clamp(min=1.0)
    return (epsilon * flat / length).view_as(gradient)


@contextmanager
def moved_embeddings(network: nn.Module, move: Tensor | None) -> Iterator[None]:
    """Within it the network adds `move`, [..., H], to the word embeddings; None: nothing."""
    if move is None:
        yield
        return
    handle = word_embeddings(network).register_forward_hook(
        lambda module, inputs, output: output + move.view_as(output)
    )
    try:
        yield
    finally:
        handle.remove()


def word_embeddings(network: nn.Module) -> nn.Embedding:
    """Those of a network of transformers."""
    return cast(nn.Embedding, cast(PreTrainedModel, network).get_input_embeddings())
