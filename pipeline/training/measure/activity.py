"""What attention looks at and which units work, on a few held-out samples.

Heads that look at one token only come before training diverges (Zhai et al. 2023, Stabilizing
Transformer Training by Preventing Attention Entropy Collapse). A unit of a feed-forward layer that
no token switches on learns nothing any more.
"""

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from model import NezhaForPreTraining
from pipeline.feed.collate import Batch
from pipeline.training.ranks import sum_over_ranks
from pipeline.training.transfer import upload

TOKENS = 1024
"""Tokens of a rank that are looked at: eager attention keeps all weights of all layers."""
LONGEST = 512
"""Tokens of one sample."""


@torch.no_grad()
def activity(network: NezhaForPreTraining, batch: Batch, device: torch.device) -> dict[str, float]:
    """Look at the first samples of a batch; every rank calls it, and gets the same.

    Returns:
        for each layer `attention_entropy/layer_00` …, the mean over heads and queries of the
        entropy of attention, divided by the logarithm of the number of keys (1: all keys alike; 0:
        one key), `attention_entropy/lowest`, that of the head with the lowest, and
        `dead_units/layer_00` …, the share of feed-forward units whose input to the activation is
        negative for all tokens.
    """
    length = min(batch.input_ids.shape[1], LONGEST)
    part = slice(0, max(1, TOKENS // length)), slice(0, length)
    given = batch.input_ids[part], batch.attention_mask[part], batch.token_type_ids[part]
    ids, mask, types = (upload(torch.from_numpy(array), device) for array in given)
    alive: list[Tensor] = []  # of each layer, which units are on: bool [units]

    def look(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        alive.append((output > 0)[mask.bool()].any(0))

    training = network.training
    network.eval()
    layers: Any = network.nezha.encoder.layer
    with ExitStack() as hooks:
        for layer in layers:
            hooks.callback(layer.intermediate.dense.register_forward_hook(look).remove)
        found = network.nezha(ids, mask, types, output_attentions=True).attentions
    network.train(training)
    entropies = torch.stack([_entropy_sums(weights, mask) for weights in found])
    on = torch.stack(alive).double()
    sum_over_ranks(entropies, on)
    heads = entropies[..., 0] / entropies[..., 1]
    values = {"attention_entropy/lowest": float(heads.min())}
    for layer, (of_heads, of_units) in enumerate(zip(heads, on, strict=True)):
        values[f"attention_entropy/layer_{layer:02d}"] = float(of_heads.mean())
        values[f"dead_units/layer_{layer:02d}"] = float((of_units == 0).double().mean())
    return values


def _entropy_sums(weights: Tensor, mask: Tensor) -> Tensor:
    """Sums of the entropies of each head's queries, and their number.

    Args:
        weights: [B, heads, S, S] of one layer.
        mask: [B, S] 1 where there is a token.

    Returns:
        float64 [heads, 2]
    """
    entropies = torch.special.entr(weights.double()).sum(-1)
    queries = mask[:, None].double()
    most = mask.sum(1).double().log().clamp(min=1e-9)[:, None, None]
    counts = queries.sum().expand(weights.shape[1])
    return torch.stack([(entropies / most * queries).sum((0, 2)), counts], dim=1)
