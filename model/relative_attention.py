"""Attention with clipped, sinusoidal relative positions on keys and values, as pure functions.

NEZHA, https://arxiv.org/abs/1909.00204, section 2.1. With T the position table, p(i, j) =
clip(j - i, -k, k) + k for query position i and key position j, and d the head size:

    scores[i, j] = q[i] · (k[j] + T[p(i, j)]) / √d + mask[i, j]
    context[i] = Σ_j dropout(softmax(scores))[i, j] · (v[j] + T[p(i, j)])
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .cpu_dropout import keep_mask, keep_scale, new_seed


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
    return _Tiled.apply(q, k, v, table.to(q.dtype), mask, dropout, offset)


TILE_BYTES = 2**21
"""Scores of a tile: so many that it stays in a core's cache."""

TILE_QUERIES = 128


class _Tiled(torch.autograd.Function):
    """Tiles of some heads and up to 128 queries against all keys; the backward pass recomputes.

    Gradients, with P the probabilities, M the dropout mask over the share kept and a[i, j] the
    position vector T[p(i, j)]:
        dV = (P * M)ᵀ dO        dP = M * (dO (V + a)ᵀ)      dS = P * (dP - rowsum(dP * P))
        dK = dSᵀ Q / √d         dQ = dS (K + a) / √d
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        table: Tensor,
        mask: Tensor | None,
        dropout: float,
        offset: int,
    ) -> Tensor:
        shape, seed = q.shape, new_seed() if dropout else 0
        q, k, v = (_flat(x) for x in (q, k, v))
        out = torch.empty_like(q)
        for tile in _tiles(q, k, mask, table, offset, shape[1]):
            p = tile.probabilities(q, k)
            if dropout:
                p *= keep_mask(p, dropout, seed + tile.number)
            context = tile.sum_by_position(p).add_(torch.bmm(p, v[tile.heads]))
            out[tile.heads, tile.rows] = context * keep_scale(dropout) if dropout else context
        ctx.save_for_backward(q, k, v, table, mask)
        ctx.shape, ctx.dropout, ctx.offset, ctx.seed = shape, dropout, offset, seed
        return out.view(shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, table, mask = ctx.saved_tensors
        batch, heads = ctx.shape[:2]
        grad, dq = _flat(grad), torch.empty_like(q)
        # Added up over tiles of queries, so in float32 or wider whatever the type.
        wide = torch.promote_types(q.dtype, torch.float32)
        dk, dv = (torch.zeros_like(k, dtype=wide) for _ in range(2))
        for tile in _tiles(q, k, mask, table, ctx.offset, heads):
            p = tile.probabilities(q, k)
            d_context = grad[tile.heads, tile.rows]
            dropped = p
            if ctx.dropout:
                keep = keep_mask(p, ctx.dropout, ctx.seed + tile.number)
                dropped = keep * p
                d_context = d_context * keep_scale(ctx.dropout)
            dv[tile.heads] += torch.bmm(dropped.transpose(1, 2), d_context)
            dp = torch.baddbmm(
                tile.dot_by_position(d_context, k.shape[1]),
                d_context,
                v[tile.heads].transpose(1, 2),
            )
            if ctx.dropout:
                dp *= keep
            ds = torch.ops.aten._softmax_backward_data(dp, p, -1, p.dtype)
            dk[tile.heads] += torch.bmm(ds.transpose(1, 2), q[tile.heads, tile.rows] * tile.scale)
            d_query = tile.sum_by_position(ds).add_(torch.bmm(ds, k[tile.heads]))
            dq[tile.heads, tile.rows] = d_query * tile.scale
        split = (batch, heads, -1, q.shape[2])
        dk, dv = dk.to(k.dtype).view(split), dv.to(v.dtype).view(split)
        return dq.view(split), dk, dv, None, None, None, None


@dataclass(frozen=True)
class _Tile:
    """n heads (of one text or several) and r queries of flat operands [B·heads, Q or K, d]."""

    number: int
    heads: slice
    rows: slice
    first: int
    """Position of the first query."""
    table: Tensor
    mask: Tensor | None
    scale: float

    def probabilities(self, q: Tensor, k: Tensor) -> Tensor:
        """softmax(scores), [n, r, K]."""
        scaled = q[self.heads, self.rows] * self.scale
        scores = torch.baddbmm(
            self.dot_by_position(scaled, k.shape[1]), scaled, k[self.heads].transpose(1, 2)
        )
        if self.mask is not None:
            scores += self.mask
        return scores.softmax(-1)

    def dot_by_position(self, x: Tensor, keys: int) -> Tensor:
        """x[i] · T[p(i, j)]: [n, r, d] → [n, r, keys], a view in which elements overlap."""
        clip, rows = self.table.shape[0] // 2, x.shape[1]
        dots = x @ self.table.T
        least = 1 - rows - self.first
        width = keys + rows - 1
        low = min(max(-clip - least, 0), width)
        high = min(max(clip + 1 - least, low), width)
        by_distance = dots.new_empty(len(x), rows, width)
        by_distance[:, :, :low] = dots[:, :, :1]
        by_distance[:, :, low:high] = dots[:, :, least + low + clip : least + high + clip]
        by_distance[:, :, high:] = dots[:, :, -1:]
        return _by_key(by_distance, keys)

    def sum_by_position(self, x: Tensor) -> Tensor:
        """Σ_j x[i, j] T[p(i, j)]: [n, r, K] → float32 (or wider) [n, r, d].

        Left of `left` and right of `right` the vector is the same for all rows.
        """
        rows, keys = x.shape[1:]
        clip = self.table.shape[0] // 2
        left = min(max(self.first - clip, 0), keys)
        right = min(self.first + rows + clip, keys)
        wide = torch.promote_types(x.dtype, torch.float32)
        total = x[:, :, :left].sum(-1, keepdim=True, dtype=wide) * self.table[0]
        total += x[:, :, right:].sum(-1, keepdim=True, dtype=wide) * self.table[-1]
        if left < right:
            by_distance = x.new_zeros(len(x), rows, right - left + rows - 1)
            _by_key(by_distance, right - left).copy_(x[:, :, left:right])
            distances = torch.arange(by_distance.shape[2]) + left + 1 - rows - self.first
            total += by_distance @ self.table[distances.clamp(-clip, clip) + clip]
        return total


def _by_key(by_distance: Tensor, keys: int) -> Tensor:
    """[n, r, keys + r - 1], a column for each distance → a view [n, r, keys], one for each key.

    Rows are shifted against each other by one, which strides can say: nothing is moved.
    """
    heads, rows, width = by_distance.shape
    return by_distance.as_strided((heads, rows, keys), (rows * width, width - 1, 1), rows - 1)


def _tiles(
    q: Tensor, k: Tensor, mask: Tensor | None, table: Tensor, offset: int, heads: int
) -> Iterator[_Tile]:
    """Tiles of flat operands; `heads` of them belong to a text, and mask is [B, heads, Q, K]."""
    total, queries, width = q.shape
    keys = k.shape[1]
    if mask is not None:
        mask = mask.expand(total // heads, heads, queries, keys)
    height = min(queries, TILE_QUERIES)
    group = max(1, TILE_BYTES // (height * keys * q.itemsize))
    starts = [(top, head) for top in range(0, queries, height) for head in range(0, total, group)]
    for number, (top, head) in enumerate(starts):
        rows = slice(top, min(top + height, queries))
        some = slice(head, min(head + group, total))
        numbers = torch.arange(some.start, some.stop)
        yield _Tile(
            number=number,
            heads=some,
            rows=rows,
            first=offset + top,
            table=table,
            mask=None if mask is None else mask[numbers // heads, numbers % heads, rows],
            scale=width**-0.5,
        )


def _flat(x: Tensor) -> Tensor:
    """[B, heads, S, d] → [B·heads, S, d] in one piece of memory.

    Products with strided operands take twice as long in bfloat16.
    """
    return x.flatten(0, 1).contiguous()


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
