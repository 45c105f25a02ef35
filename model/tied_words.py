"""Word vectors that are the vocabulary head's weights too: one gradient of them, not three.

Autograd makes a gradient as large as the vocabulary for the embedding, another for the head, and a
third for their sum. Here the embedding's rows are added to the head's gradient.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .plain_linear import is_plain, is_untouched


def vectors_and_words(
    embedding: nn.Embedding, head: nn.Linear, ids: Tensor
) -> tuple[Tensor, Tensor]:
    """Vectors [..., H] of the words `ids` (int64 [...]), and [V, H], the head's weight to use."""
    if (
        head.weight is embedding.weight
        # A GPU sums rows in an order of its own, unless it sorts them as the embedding does.
        and ids.device.type == "cpu"
        and is_plain(head)
        and is_untouched(embedding, nn.Embedding)
    ):
        return TiedWords.apply(ids, embedding.weight, embedding.padding_idx)
    return embedding(ids), head.weight


class TiedWords(torch.autograd.Function):
    """Takes ids and words [V, H]; gives the vectors of the ids, and the words for one more use."""

    @staticmethod
    def forward(ctx: Any, ids: Tensor, words: Tensor, padding: int | None) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(ids)
        ctx.padding = padding
        return F.embedding(ids, words), words.view_as(words)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_vectors: Tensor, d_words: Tensor) -> tuple[None, Tensor, None]:
        (ids,) = ctx.saved_tensors
        used, rows = ids.flatten().unique(return_inverse=True)
        # Frequent words have many summands: in bfloat16 the late ones would be lost.
        wide = torch.promote_types(d_words.dtype, torch.float32)
        sums = torch.zeros(len(used), d_words.shape[1], dtype=wide, device=d_words.device)
        sums.index_add_(0, rows, d_vectors.flatten(0, -2).to(wide))
        if ctx.padding is not None:
            sums[used == ctx.padding] = 0
        sums += d_words[used]
        d_words[used] = sums.to(d_words.dtype)
        return None, d_words, None
