"""Relative attention for CPUs: tiles that stay in cache, nothing quadratic kept.

The function is that of `relative_attention.py`; its notation holds here, too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..fused.dropout import bits, keep_mask
from ..fused.dropout_rates import keep_scale, new_seed
from .tile_sizes import ROWS, add_product, flat, sum_dtype, tiles


class TiledAttention(torch.autograd.Function):
    """Tiles of some heads and queries against all keys; the backward pass recomputes.

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
        q, k, v = (flat(x) for x in (q, k, v))
        out = torch.empty_like(q)
        for tile in _tiles(q, k, mask, table, offset, shape[1]):
            p = tile.probabilities(q, k)
            if dropout:
                bits(p).mul_(keep_mask(p, dropout, seed + tile.number))
            context = tile.sum_by_position(p, torch.bmm(p, v[tile.heads]))
            out[tile.heads, tile.rows] = context * keep_scale(dropout) if dropout else context
        ctx.save_for_backward(q, k, v, table, mask)
        ctx.shape, ctx.dropout, ctx.offset, ctx.seed = shape, dropout, offset, seed
        return out.view(shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, table, mask = ctx.saved_tensors
        batch, heads = ctx.shape[:2]
        grad, dq = flat(grad), torch.empty_like(q)
        dtype = sum_dtype(q.dtype, q.shape[1], k.shape[1] * q.itemsize)
        dk, dv = (torch.zeros_like(k, dtype=dtype) for _ in range(2))
        for tile in _tiles(q, k, mask, table, ctx.offset, heads):
            p = tile.probabilities(q, k)
            d_context = grad[tile.heads, tile.rows]
            if ctx.dropout:
                d_context = d_context * keep_scale(ctx.dropout)
            dp = tile.products(d_context, v)
            dropped = p
            if ctx.dropout:
                keep = keep_mask(p, ctx.dropout, ctx.seed + tile.number)
                bits(dp).mul_(keep)
                dropped = keep.mul_(bits(p)).view(p.dtype)
            add_product(dv[tile.heads], dropped.transpose(1, 2), d_context)
            # In place, as the softmax: what is not written afresh stays in the cache.
            ds = torch.ops.aten._softmax_backward_data.out(dp, p, -1, p.dtype, grad_input=dp)
            scaled = q[tile.heads, tile.rows] * tile.scale
            add_product(dk[tile.heads], ds.transpose(1, 2), scaled)
            d_query = tile.sum_by_position(ds, torch.bmm(ds, k[tile.heads]))
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
    bands: list[tuple[slice, "_Band"]]
    """Blocks of the rows, and where each has its band."""
    table: Tensor
    mask: Tensor | None
    scale: float

    def probabilities(self, q: Tensor, k: Tensor) -> Tensor:
        """softmax(scores), [n, r, K]."""
        scaled = q[self.heads, self.rows] * self.scale
        scores = self.products(scaled, k)
        if self.mask is not None:
            scores += self.mask
        return torch.softmax(scores, -1, out=scores)

    def products(self, x: Tensor, y: Tensor) -> Tensor:
        """x[i] · (y[j] + T[p(i, j)]), [n, r, K]; x is [n, r, d] and y all heads' keys or values."""
        dots = x @ self.table.T
        products = x.new_empty(*x.shape[:2], y.shape[1])
        for rows, band in self.bands:
            block, near = products[:, rows], dots[:, rows]
            block[:, :, : band.left] = near[:, :, :1]
            block[:, :, band.right :] = near[:, :, -1:]
            if band.left == band.right:
                continue
            by_distance = dots.new_empty(len(x), block.shape[1], band.width)
            by_distance[:, :, : band.low] = near[:, :, :1]
            by_distance[:, :, band.low : band.high] = near[:, :, band.table_rows]
            by_distance[:, :, band.high :] = near[:, :, -1:]
            block[:, :, band.left : band.right] = _by_key(by_distance, band.right - band.left)
        return products.baddbmm_(x, y[self.heads].transpose(1, 2))

    def sum_by_position(self, x: Tensor, rest: Tensor) -> Tensor:
        """rest + Σ_j x[i, j] T[p(i, j)], float32 or wider [n, r, d]; x is [n, r, K]."""
        wide = torch.promote_types(x.dtype, torch.float32)
        total = rest.to(wide)
        ends = self.table[[0, -1]].to(wide)
        masses = x.new_empty(*x.shape[:2], 2, dtype=wide)
        for rows, band in self.bands:
            block = x[:, rows]
            by_distance = x.new_zeros(len(x), block.shape[1], band.width)
            if band.left < band.right:
                _by_key(by_distance, band.right - band.left).copy_(
                    block[:, :, band.left : band.right]
                )
            sides = (
                (block[:, :, : band.left], by_distance[:, :, : band.low]),
                (block[:, :, band.right :], by_distance[:, :, band.high :]),
            )
            for side, (far, near) in enumerate(sides):
                masses[:, rows, side] = far.sum(-1, dtype=wide).add_(near.sum(-1, dtype=wide))
            total[:, rows] += by_distance[:, :, band.low : band.high] @ self.table[band.table_rows]
        return total.add_(masses @ ends)


class _Band(NamedTuple):
    """Where the keys stand that some row of a block sees within the clip distance.

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


def _bands(first: int, rows: int, keys: int, clip: int) -> list[tuple[slice, _Band]]:
    """Of a tile of so many rows whose first query has position `first`."""
    blocks = [slice(top, min(top + ROWS, rows)) for top in range(0, rows, ROWS)]
    return [(b, _band(first + b.start, b.stop - b.start, keys, clip)) for b in blocks]


def _band(first: int, rows: int, keys: int, clip: int) -> _Band:
    left = min(max(first - clip, 0), keys)
    right = max(min(first + rows + clip, keys), left)
    width = right - left + rows - 1 if left < right else 0
    least = left - first - rows + 1
    low = min(max(-clip - least, 0), width)
    high = min(max(clip + 1 - least, low), width)
    return _Band(left, right, width, low, high, slice(least + low + clip, least + high + clip))


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
    cuts = tiles(total, queries, keys * q.itemsize)
    for number, (some, rows) in enumerate(cuts):
        bands = _bands(offset + rows.start, rows.stop - rows.start, keys, table.shape[0] // 2)
        part = None
        if mask is not None:
            numbers = torch.arange(some.start, some.stop)
            part = mask[numbers // heads, numbers % heads, rows]
        yield _Tile(number, some, rows, bands, table, part, width**-0.5)
