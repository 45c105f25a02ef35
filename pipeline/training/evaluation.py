"""Held-out evaluation: masked-token and next-sentence scores on fixed masks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, repeat

import torch
import torch.distributed as dist
from torch import nn

from pipeline.feed.batches import Batch
from pipeline.training.objective import STATISTICS, summarize, to_device


@torch.no_grad()
def evaluate(
    objective: nn.Module, batches: Iterable[Batch], device: torch.device
) -> dict[str, float]:
    """Scores over the batches of all ranks; every rank calls it and gets the same.

    Returns:
        `mlm_loss` (nats a masked token), `mlm_accuracy`, `perplexity`, `masked_tokens` and, where
        the corpus has pairs, `nsp_loss` and `nsp_accuracy`.
    """
    objective.eval()
    total = torch.zeros(len(STATISTICS), dtype=torch.float64, device=device)
    for batch, counts in _in_step(list(batches), device):
        _, statistics, _ = objective(to_device(batch, device))
        total += statistics.double() if counts else 0.0
    if dist.is_initialized():
        dist.all_reduce(total)
    objective.train()
    means = summarize(total)
    means["perplexity"] = float(torch.exp(torch.tensor(means["mlm_loss"], dtype=torch.float64)))
    means["masked_tokens"] = float(total[STATISTICS.index("masked")])
    return means


def _in_step(batches: list[Batch], device: torch.device) -> Iterator[tuple[Batch, bool]]:
    """A rank's batches, its last one repeated without counting until the longest rank is done.

    ZeRO-3 gathers weights in every forward pass, so all ranks must make equally many.
    """
    longest = torch.tensor(len(batches), device=device)
    if dist.is_initialized():
        dist.all_reduce(longest, dist.ReduceOp.MAX)
    filler = repeat((batches[-1], False), int(longest) - len(batches)) if batches else ()
    return chain(((batch, True) for batch in batches), filler)
