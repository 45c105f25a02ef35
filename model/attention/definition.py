"""Attention with clipped, sinusoidal relative positions on keys and values: the definition.

NEZHA, https://arxiv.org/abs/1909.00204, section 2.1. With T the position table, p(i, j) =
clip(j - i, -k, k) + k for query position i and key position j, and d the head size:

    scores[i, j] = q[i] · (k[j] + T[p(i, j)]) / √d + mask[i, j]
    context[i] = Σ_j dropout(softmax(scores))[i, j] · (v[j] + T[p(i, j)])
"""

import math

import torch
from torch import Tensor

from ..fused.dropout import plain_dropout


def position_table(head_size: int, max_relative_position: int) -> Tensor:
    """T, float32 [2k + 1, d]: row p holds sin(p·w_i), cos(p·w_i) interleaved, w_i = 10000^(-2i/d).

    Computed in float32 step by step as transformers 4.40.2 does it, because at large p the
    rounding of w_i shows in the fifth digit and public weights were trained with it.
    """
    row = torch.arange(2 * max_relative_position + 1, dtype=torch.float32)
    even = torch.arange(0, head_size, 2, dtype=torch.float32)
    angle = row[:, None] * torch.exp(even * (-math.log(10000.0) / head_size))
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


def table_rows(queries: int, keys: int, offset: int, clip: int, device: torch.device) -> Tensor:
    """p(i, j), int64 [queries, keys]; the first query has position `offset`."""
    distance = (
        torch.arange(keys, device=device) - torch.arange(queries, device=device)[:, None] - offset
    )
    return distance.clamp(-clip, clip) + clip


def eager_attention(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor, mask: Tensor | None = None,
    head_mask: Tensor | None = None, dropout: float = 0.0, offset: int = 0,
    scaling: float | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The definition, step by step.

    q [B, heads, Q, d]; k, v [B, heads, K, d]; table [2k + 1, d]; mask is added to the scores and
    head_mask multiplied into the probabilities, both broadcastable to [B, heads, Q, K]; scaling is
    1/√d unless given. Returns the context [B, heads, Q, d] and the probabilities after dropout
    [B, heads, Q, K].
    """
    table = table.to(q.dtype)
    rows = table_rows(q.shape[2], k.shape[2], offset, table.shape[0] // 2, q.device)
    by_row = (q @ table.T).gather(3, rows.expand(*q.shape[:2], -1, -1))
    scores = q @ k.transpose(2, 3) + by_row
    scores = scores * (q.shape[3] ** -0.5 if scaling is None else scaling)
    if mask is not None:
        scores = scores + mask
    weights = plain_dropout(scores.softmax(-1), dropout)
    if head_mask is not None:
        weights = weights * head_mask
    mass = weight_of_rows(weights, rows, offset, table.shape[0] // 2)
    return weights @ v + mass @ table, weights


def weight_of_rows(weights: Tensor, rows: Tensor, offset: int, clip: int) -> Tensor:
    """[B, heads, Q, 2k + 1]: the sum of the weights that each row of the table has for a query.

    weights [B, heads, Q, K]; rows: p(i, j), int64 [Q, K].

    Only the first and the last row can belong to several keys; the others are gathered. ONNX has
    scatter_add from opset 16 on (before, it keeps one key of several), and not for fp16 on CPUs.
    """
    if clip == 0:
        return weights.sum(-1, keepdim=True)
    ends = [(weights * (rows == row)).sum(-1, keepdim=True) for row in (0, 2 * clip)]
    queries = torch.arange(offset, offset + rows.shape[0], device=rows.device)
    keys = queries[:, None] + torch.arange(1 - clip, clip, device=rows.device)
    nearest = keys.clamp(0, rows.shape[1] - 1)
    between = weights.gather(3, nearest.expand(*weights.shape[:2], -1, -1))
    exists = keys == nearest
    return torch.cat([ends[0], between * exists, ends[1]], -1)
