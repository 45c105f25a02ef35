"""Relative attention for CPUs: tiles that stay in the cache, memory linear in length.

The function and the notation are those of `definition.py`. The operators take flat tensors
[B·heads, length, d] in one piece of memory, because products with strided operands take twice as
long in bfloat16.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..fused.dropout import (
    INTEGERS,
    as_bytes,
    bits,
    draws_of_sample,
    keep_mask,
    keep_scale,
    keep_where,
    new_seed,
)
from ..fused.operators import check_transforms, operator

TILE_BYTES = 2**22
"""Scores of a tile: as many as stay in the cache."""
ROWS = 128
"""The queries of a tile are a multiple of it, or all queries."""


def tiled_attention(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor, mask: Tensor | None = None,
    dropout: float = 0.0, offset: int = 0, scaling: float | None = None,
) -> Tensor:  # fmt: skip
    """Context [B, heads, Q, d] of `definition.eager_attention`, with its arguments.

    A rate of dropout is rounded to a 256th.
    """
    check_transforms()
    scaling = q.shape[3] ** -0.5 if scaling is None else scaling
    seed = new_seed() if dropout else None
    flat = [x.flatten(0, 1).contiguous() for x in (q, k, v)]
    table = table.to(q.dtype)
    context = cpu_attention(*flat, table, mask, q.shape[1], dropout, offset, scaling, seed)
    return context.view(q.shape)


@operator(fake=lambda q, *_: torch.empty_like(q))
def cpu_attention(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor, mask: Tensor | None, heads: int,
    dropout: float, offset: int, scaling: float, seed: Tensor | None,
) -> Tensor:  # fmt: skip
    """Tiles of some heads and queries against all keys."""
    out = torch.empty_like(q)
    for tile in _tiles(q, k, table, mask, heads, offset, scaling, seed):
        p = tile.probabilities(q, k)
        if dropout:
            bits(p).mul_(tile.keep(p, dropout))
        context = tile.sum_by_position(p, torch.bmm(p, v[tile.heads]))
        out[tile.heads, tile.rows] = context * keep_scale(dropout) if dropout else context
    return out


@operator(fake=lambda grad, q, k, v, *_: tuple(torch.empty_like(x) for x in (q, k, v)))
def cpu_attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, table: Tensor, mask: Tensor | None, heads: int,
    dropout: float, offset: int, scaling: float, seed: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k and v; the probabilities are computed again.

    With P the probabilities, M the dropout mask over the share kept, s the scaling and a[i, j] the
    position vector T[p(i, j)]:
        dV = (P * M)ᵀ dO        dP = M * (dO (V + a)ᵀ)      dS = P * (dP - rowsum(dP * P))
        dK = s dSᵀ Q            dQ = s dS (K + a)
    """
    grad, dq = grad.contiguous(), torch.empty_like(q)
    # A tile of all queries needs no sum over tiles.
    one_tile = _tile_height(q, k) == q.shape[1]
    dtype = q.dtype if one_tile else torch.promote_types(q.dtype, torch.float32)
    dk, dv = (torch.zeros_like(k, dtype=dtype) for _ in range(2))
    for tile in _tiles(q, k, table, mask, heads, offset, scaling, seed):
        p = tile.probabilities(q, k)
        d_context = grad[tile.heads, tile.rows]
        if dropout:
            d_context = d_context * keep_scale(dropout)
        dp = tile.products(d_context, v)
        dropped = p
        if dropout:
            keep = tile.keep(p, dropout)
            bits(dp).mul_(keep)
            dropped = keep.mul_(bits(p)).view(p.dtype)
        _add_product(dv[tile.heads], dropped.transpose(1, 2), d_context)
        # In place, as the softmax: memory that was just used is still in the cache.
        ds = torch.ops.aten._softmax_backward_data.out(dp, p, -1, p.dtype, grad_input=dp)
        scaled = q[tile.heads, tile.rows] * tile.scaling
        _add_product(dk[tile.heads], ds.transpose(1, 2), scaled)
        d_query = tile.sum_by_position(ds, torch.bmm(ds, k[tile.heads]))
        dq[tile.heads, tile.rows] = d_query * tile.scaling
    return dq, dk.to(k.dtype), dv.to(v.dtype)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    q, k, v, table, mask, *ctx.numbers, seed = inputs
    ctx.save_for_backward(q, k, v, table, mask, seed)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, seed = ctx.saved_tensors
    return *cpu_attention_backward(grad, *tensors, *ctx.numbers, seed), *[None] * 7


cpu_attention.register_autograd(_backward, setup_context=_save_for_backward)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a b, in place."""
    if total.dtype == a.dtype:
        total.baddbmm_(a, b)
    else:
        total += torch.bmm(a, b)


@dataclass(frozen=True)
class _Tile:
    """n heads (of one sequence or several) and r queries of flat operands [B·heads, Q or K, d]."""

    keep: Callable[[Tensor, float], Tensor]
    """Makes the mask of dropout, [n, r, K], from a tensor of its shape and the rate"""
    heads: slice
    rows: slice
    bands: "list[_Band]"
    """One for each part of the rows"""
    table: Tensor
    mask: Tensor | None
    scaling: float

    def probabilities(self, q: Tensor, k: Tensor) -> Tensor:
        """softmax(scores), [n, r, K]."""
        scaled = q[self.heads, self.rows] * self.scaling
        scores = self.products(scaled, k)
        if self.mask is not None:
            scores += self.mask
        return torch.softmax(scores, -1, out=scores)

    def products(self, x: Tensor, y: Tensor) -> Tensor:
        """x[i] · (y[j] + T[p(i, j)]), [n, r, K]; x is [n, r, d], y all keys or values."""
        dots = x @ self.table.T
        products = x.new_empty(*x.shape[:2], y.shape[1])
        for band in self.bands:
            block, near = products[:, band.rows], dots[:, band.rows]
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
        for band in self.bands:
            block = x[:, band.rows]
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
                masses[:, band.rows, side] = far.sum(-1, dtype=wide).add_(near.sum(-1, dtype=wide))
            near = by_distance[:, :, band.low : band.high]
            total[:, band.rows] += near @ self.table[band.table_rows]
        return total.add_(masses @ ends)


class _Band(NamedTuple):
    """The keys that some of the `rows` of a tile sees within the clip distance.

    Left of `left` and right of `right` the position vector is the same for all rows. Between them
    a buffer has a column for each distance; columns `low` to `high` are within the clip distance.
    """

    rows: slice
    left: int
    right: int
    width: int
    """Columns of the buffer"""
    low: int
    high: int
    table_rows: slice
    """Rows of the table for the columns low to high"""


def _band(rows: slice, origin: int, keys: int, clip: int) -> _Band:
    """origin: position of row 0."""
    first, count = origin + rows.start, rows.stop - rows.start
    left = min(max(first - clip, 0), keys)
    right = max(min(first + count + clip, keys), left)
    width = right - left + count - 1 if left < right else 0
    least = left - first - count + 1
    low = min(max(-clip - least, 0), width)
    high = min(max(clip + 1 - least, low), width)
    table_rows = slice(least + low + clip, least + high + clip)
    return _Band(rows, left, right, width, low, high, table_rows)


def _by_key(by_distance: Tensor, keys: int) -> Tensor:
    """[n, r, keys + r - 1], a column for each distance → a view [n, r, keys], one for each key.

    Each row is shifted by one against the row above, which strides express without a copy.
    """
    heads, rows, width = by_distance.shape
    return by_distance.as_strided((heads, rows, keys), (rows * width, width - 1, 1), rows - 1)


def _tile_height(q: Tensor, k: Tensor) -> int:
    """Queries of a tile: all if the scores of a head fit, and at least one."""
    rows = TILE_BYTES // max(k.shape[1] * q.itemsize, 1)
    return min(max(q.shape[1], 1), max(rows // ROWS * ROWS, ROWS))


def _tiles(
    q: Tensor, k: Tensor, table: Tensor, mask: Tensor | None, heads: int, offset: int,
    scaling: float, seed: Tensor | None,
) -> Iterator[_Tile]:  # fmt: skip
    """Tiles of flat operands; a sequence has `heads` of them, and mask is [B, heads, Q, K]."""
    (total, queries, _), keys = q.shape, k.shape[1]
    if mask is not None:
        mask = mask.expand(total // heads, heads, queries, keys)
    height = _tile_height(q, k)
    group = max(1, TILE_BYTES // max(height * keys * q.itemsize, 1))
    clip = table.shape[0] // 2
    by_sample = None if seed is None or seed.dim() == 0 else _MasksBySample(seed, heads, height)
    first_seed = 0 if seed is None or by_sample else int(seed)
    corners = product(range(0, queries, height), range(0, total, group))
    for number, (top, head) in enumerate(corners):
        some = slice(head, min(head + group, total))
        rows = slice(top, min(top + height, queries))
        bands = [
            _band(slice(start, min(start + ROWS, rows.stop - top)), offset + top, keys, clip)
            for start in range(0, rows.stop - top, ROWS)
        ]
        part = None
        if mask is not None:
            numbers = torch.arange(some.start, some.stop)
            part = mask[numbers // heads, numbers % heads, rows]
        keep = partial(keep_mask, seed=first_seed + number)
        if by_sample:
            keep = partial(by_sample.keep, heads=some, rows=rows)
        yield _Tile(keep, some, rows, bands, table, part, scaling)


class _MasksBySample:
    """Masks of dropout that do not depend on what else is in the batch, nor on its padding.

    A sample's masks are drawn for all heads and ROWS queries at a time, over its own tokens.
    """

    def __init__(self, seeds: Tensor, heads: int, height: int) -> None:
        """height: queries of a tile."""
        self._seeds, self._heads = [tuple(seed) for seed in seeds.tolist()], heads
        # The next tile may have the other heads of a sample, and the same queries.
        self._draws = lru_cache(-(-height // ROWS))(draws_of_sample)

    def keep(self, like: Tensor, rate: float, heads: slice, rows: slice) -> Tensor:
        """Ones, and zeros with probability `rate`, for a tile [n, r, K] of these heads and rows."""
        mask = torch.ones_like(like, dtype=INTEGERS[like.itemsize])
        for sample in range(heads.start // self._heads, -(-heads.stop // self._heads)):
            first = sample * self._heads
            some = slice(max(heads.start - first, 0), min(heads.stop - first, self._heads))
            within = mask[first + some.start - heads.start : first + some.stop - heads.start]
            seed = self._seeds[sample]
            _, _, tokens = seed
            for top in range(rows.start, min(rows.stop, tokens), ROWS):
                height = min(ROWS, tokens - top)
                draws = self._draws(seed, top // ROWS, self._heads * height * tokens)
                bytes_ = as_bytes(draws, (self._heads, height, tokens))[some]
                start = top - rows.start
                keep_where(bytes_, rate, within[:, start : start + height, :tokens])
        return mask
