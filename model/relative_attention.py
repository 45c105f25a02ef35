"""Attention with clipped, sinusoidal relative positions on keys and values, as pure functions.

NEZHA, https://arxiv.org/abs/1909.00204, section 2.1. With T the position table, p(i, j) =
clip(j - i, -k, k) + k for query position i and key position j, and d the head size:

    scores[i, j] = q[i] · (k[j] + T[p(i, j)]) / √d + mask[i, j]
    context[i] = Σ_j dropout(softmax(scores))[i, j] · (v[j] + T[p(i, j)])
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .cpu_attention import TiledAttention


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
    """p(i, j), int64 [queries, keys]; the first query stands at position `offset`."""
    distance = (
        torch.arange(keys, device=device) - torch.arange(queries, device=device)[:, None] - offset
    )
    return distance.clamp(-clip, clip) + clip


def eager_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    mask: Tensor | None = None,
    head_mask: Tensor | None = None,
    dropout: float = 0.0,
    offset: int = 0,
) -> tuple[Tensor, Tensor]:
    """The definition, step by step.

    q [B, heads, Q, d]; k, v [B, heads, K, d]; table [2k + 1, d]; mask is added to the scores and
    head_mask multiplied into the probabilities, both broadcastable to [B, heads, Q, K].
    Returns context [B, heads, Q, d] and the dropped probabilities [B, heads, Q, K].
    """
    table = table.to(q.dtype)
    rows = table_rows(q.shape[2], k.shape[2], offset, table.shape[0] // 2, q.device)
    rows = rows.expand(q.shape[0], q.shape[1], -1, -1)
    scores = q @ k.transpose(2, 3) + (q @ table.T).gather(3, rows)
    scores = scores / math.sqrt(q.shape[3])
    if mask is not None:
        scores = scores + mask
    weights = nn.functional.dropout(scores.softmax(-1), dropout)
    if head_mask is not None:
        weights = weights * head_mask
    mass = weights.new_zeros(*q.shape[:3], table.shape[0]).scatter_add(3, rows, weights)
    return weights @ v + mass @ table, weights


def sdpa_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    offset: int = 0,
) -> Tensor:
    """`eager_attention` without the weights; on a CPU tile by tile, in memory linear in length."""
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if traced or q.device.type != "cpu" or dropout >= 1:
        return eager_attention(q, k, v, table, mask, None, dropout, offset)[0]
    return TiledAttention.apply(q, k, v, table.to(q.dtype), mask, dropout, offset)


ATTENTIONS: dict[str, Callable[..., Tensor]] = {"sdpa": sdpa_attention}


def attend(
    implementation: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    mask: Tensor | None = None,
    head_mask: Tensor | None = None,
    dropout: float = 0.0,
    offset: int = 0,
    need_weights: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Context [B, heads, Q, d] by the named implementation, and the weights where asked for.

    Weights and head masks exist only in `eager_attention`, which then serves any name.
    """
    if mask is not None and mask.dtype != q.dtype:
        # The lowest float32 is -inf in half precision, and a row of it no longer uniform.
        lowest = max(torch.finfo(q.dtype).min, torch.finfo(mask.dtype).min)
        mask = mask.clamp(min=lowest).to(q.dtype)
    if implementation == "eager" or need_weights or head_mask is not None:
        context, weights = eager_attention(q, k, v, table, mask, head_mask, dropout, offset)
        return context, weights if need_weights else None
    return ATTENTIONS[implementation](q, k, v, table, mask, dropout, offset), None


def attend_packed(
    implementation: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    cu_seqlens: Tensor,
    dropout: float = 0.0,
) -> Tensor:
    """Context of texts laid end to end, each attending to itself alone: no padding is computed.

    q, k, v [1, heads, T, d]; text n spans tokens cu_seqlens[n] to cu_seqlens[n + 1] (int [N + 1]).
    """
    lengths = cu_seqlens.diff().tolist()
    q_texts, k_texts, v_texts = (x.split(lengths, dim=2) for x in (q, k, v))
    parts = [
        attend(implementation, *text, table=table, dropout=dropout)[0]
        for text in zip(q_texts, k_texts, v_texts, strict=True)
    ]
    return torch.cat(parts, dim=2)
