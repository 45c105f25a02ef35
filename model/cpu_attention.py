"""Relative attention for CPUs: tiles that stay in cache, nothing quadratic kept.

The function is that of `relative_attention.py`; its notation holds here, too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .cpu_dropout import keep_mask, keep_scale, new_seed

TILE_BYTES = 2**21
"""Scores of a tile: so many that it stays in a core's cache."""

TILE_QUERIES = 128


class TiledAttention(torch.autograd.Function):
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
            dp = torch.bmm(d_context, v[tile.heads].transpose(1, 2))
            tile.add_by_position(dp, d_context)
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
        scores = torch.bmm(scaled, k[self.heads].transpose(1, 2))
        self.add_by_position(scores, scaled)
        if self.mask is not None:
            scores += self.mask
        return scores.softmax(-1)

    def add_by_position(self, scores: Tensor, x: Tensor) -> None:
        """Add x[i] · T[p(i, j)] to scores [n, r, K] in place; x is [n, r, d]."""
        band = self._band(*scores.shape[1:])
        dots = x @ self.table.T
        scores[:, :, : band.left] += dots[:, :, :1]
        scores[:, :, band.right :] += dots[:, :, -1:]
        if band.left == band.right:
            return
        by_distance = dots.new_empty(len(x), x.shape[1], band.width)
        by_distance[:, :, : band.low] = dots[:, :, :1]
        by_distance[:, :, band.low : band.high] = dots[:, :, band.table_rows]
        by_distance[:, :, band.high :] = dots[:, :, -1:]
        scores[:, :, band.left : band.right] += _by_key(by_distance, band.right - band.left)

    def sum_by_position(self, x: Tensor) -> Tensor:
        """Σ_j x[i, j] T[p(i, j)]: [n, r, K] → float32 (or wider) [n, r, d]."""
        band = self._band(*x.shape[1:])
        by_distance = x.new_zeros(len(x), x.shape[1], band.width)
        if band.left < band.right:
            _by_key(by_distance, band.right - band.left).copy_(x[:, :, band.left : band.right])
        wide = torch.promote_types(x.dtype, torch.float32)

        def mass(*parts: Tensor) -> Tensor:
            return torch.stack([part.sum(-1, dtype=wide) for part in parts]).sum(0)[:, :, None]

        total = mass(x[:, :, : band.left], by_distance[:, :, : band.low]) * self.table[0]
        total += mass(x[:, :, band.right :], by_distance[:, :, band.high :]) * self.table[-1]
        total += by_distance[:, :, band.low : band.high] @ self.table[band.table_rows]
        return total

    def _band(self, rows: int, keys: int) -> "_Band":
        clip = self.table.shape[0] // 2
        left = min(max(self.first - clip, 0), keys)
        right = max(min(self.first + rows + clip, keys), left)
        width = right - left + rows - 1 if left < right else 0
        least = left - self.first - rows + 1
        low = min(max(-clip - least, 0), width)
        high = min(max(clip + 1 - least, low), width)
        return _Band(left, right, width, low, high, slice(least + low + clip, least + high + clip))


class _Band(NamedTuple):
    """Where the keys stand that some row of a tile sees within the clip distance.

    Left of `left` and right of `right` the position vector is the same for all rows. Between them
    a buffer has a column for each distance, and of those `low` to `high` are within the clip.
    """

    left: int
    right: int
    width: int
    """Columns of the buffer"""
    low: int
    high: int
    table_rows: slice
    """Of the columns low to high"""


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
