"""Held-out evaluation: masked tokens, whole words and next sentences on fixed masks."""

from collections.abc import Iterable, Iterator
from itertools import chain, repeat

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.feed.collate import Batch
from pipeline.training.objective import STATISTICS, PretrainingObjective, summarize, to_device
from pipeline.training.ranks import sum_over_ranks

LENGTHS = ("1", "2", "3", "4", "5plus")
"""Lengths of words in tokens; a Han character is one token."""


@torch.no_grad()
def evaluate(
    objective: PretrainingObjective, batches: Iterable[Batch], device: torch.device
) -> dict[str, float]:
    """Scores over the batches of all ranks; every rank calls it and gets the same.

    Returns:
        `loss`, which is what is trained; `mlm_loss` (nats for each masked token), `perplexity`,
        `mlm_accuracy` (of tokens), `masked_tokens`; where the corpus has pairs, `nsp_loss` and
        `nsp_accuracy`; `word_accuracy` (share of words with every token right) and `masked_words`,
        and both for each length that occurs: `word_accuracy_1` … `word_accuracy_5plus`.
    """
    objective.eval()
    sums = torch.zeros(len(STATISTICS), dtype=torch.float64, device=device)
    words = torch.zeros(2, len(LENGTHS), dtype=torch.float64, device=device)
    for batch, counts in _equally_many(list(batches), device):
        _, statistics, right = objective(to_device(batch, device))
        if counts:
            sums += statistics
            words += count_words(right, torch.from_numpy(batch.masked_words).to(device))
    sum_over_ranks(sums, words)
    objective.train()
    scores = summarize(sums, objective.nsp_weight)
    scores["perplexity"] = float(torch.exp(torch.tensor(scores["mlm_loss"], dtype=torch.float64)))
    scores["masked_tokens"] = float(sums[STATISTICS.index("masked")])
    return scores | summarize_words(words)


def count_words(right: Tensor, words: Tensor) -> Tensor:
    """Words with every token right, and all words, by length.

    Args:
        right: bool [M], which masked tokens were predicted right.
        words: int64 [M], ascending numbers of the words that they belong to. Whole words are
            masked, so the masked tokens of a word are all its tokens.

    Returns:
        float64 [2, 5] in the order of LENGTHS: words with every token right, and all words.
    """
    _, word, lengths = torch.unique_consecutive(words, return_inverse=True, return_counts=True)
    exact = torch.zeros_like(lengths).index_add(0, word, right.long()) == lengths
    kinds = lengths.clamp(max=len(LENGTHS)) - 1
    counts = torch.zeros(2, len(LENGTHS), dtype=torch.float64, device=right.device)
    return counts.index_add(1, kinds, torch.stack([exact, torch.ones_like(exact)]).double())


def summarize_words(counts: Tensor) -> dict[str, float]:
    """`word_accuracy…` and `masked_words…` from sums of `count_words` [2, 5]."""
    columns = [("", *counts.sum(1).tolist())]
    columns += [(f"_{name}", *counts[:, kind].tolist()) for kind, name in enumerate(LENGTHS)]
    scores: dict[str, float] = {}
    for suffix, exact, total in columns:
        if total:
            scores |= {f"word_accuracy{suffix}": exact / total, f"masked_words{suffix}": total}
    return scores


def _equally_many(batches: list[Batch], device: torch.device) -> Iterator[tuple[Batch, bool]]:
    """This rank's batches, and whether each counts.

    A rank with fewer batches than another repeats its last one without counting it: ZeRO-3 gathers
    weights in every forward pass, so all ranks must make equally many.
    """
    longest = torch.tensor(len(batches), device=device)
    if dist.is_initialized():
        dist.all_reduce(longest, dist.ReduceOp.MAX)
    filler = repeat((batches[-1], False), int(longest) - len(batches)) if batches else ()
    return chain(((batch, True) for batch in batches), filler)
