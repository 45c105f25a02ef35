"""Relative attention for CPUs with compiled kernels: all that is no matrix product is one pass.

The function is that of `relative_attention.py`. The position table stands below the keys and below
the values, so that one product gives a query's dots with keys and positions, and one sums up
values and positions. Between the two, `cpu_fused_attention.c` works on the rows in place.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.autograd.graph import increment_version

from .attention.tile_sizes import add_product, flat, sum_dtype, tiles
from .cpu_kernels import Dropout, Tile, attention_backward, attention_forward, kernels_suit
from .fused.dropout_rates import new_seed
from .observed import are_ordinary


def fused_attention_suits(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor, mask: Tensor | None
) -> bool:
    """Whether they are FusedAttention's, which keeps the table's two ends apart."""
    operands = (q, k, v, table) if mask is None else (q, k, v, table, mask)
    return kernels_suit(q) and are_ordinary(*operands) and len(table) > 1


class FusedAttention(torch.autograd.Function):
    """As TiledAttention, for operands that `fused_attention_suits`; the same formulas."""

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
        ctx.shape, ctx.dropout, ctx.offset = q.shape, dropout, offset
        ctx.seed = new_seed() if dropout else 0
        table = _within_reach(table, q.shape[2], k.shape[2], offset)
        q = flat(q)
        keys, values = _over_table(k, table), _over_table(v, table)
        out = torch.empty_like(q)
        softmax = q.new_empty(*q.shape[:2], 2, dtype=torch.float32)
        with _uncast():
            for heads, rows, tile in _tiles(ctx, k, table, mask):
                weights = torch.bmm(q[heads, rows], keys[heads].transpose(1, 2))
                attention_forward(tile, weights, softmax)
                # Selective checkpointing may have kept what `bmm` returned, and has to notice.
                increment_version(weights)
                out[heads, rows] = torch.bmm(weights, values[heads])
        # Not keys and values, which are longer; to make them again takes little.
        ctx.save_for_backward(q, k, v, table, mask, softmax)
        return out.view(ctx.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, table, mask, softmax = ctx.saved_tensors
        keys, values = _over_table(k, table), _over_table(v, table)
        grad, dq = flat(grad), torch.empty_like(q)
        count = k.shape[2]
        dtype = sum_dtype(q.dtype, q.shape[1], keys.shape[1] * q.itemsize)
        dk, dv = (q.new_zeros(len(q), count, q.shape[2], dtype=dtype) for _ in range(2))
        with _uncast():
            for heads, rows, tile in _tiles(ctx, k, table, mask):
                weights = torch.bmm(q[heads, rows], keys[heads].transpose(1, 2))
                ds = torch.bmm(grad[heads, rows], values[heads].transpose(1, 2))
                attention_backward(tile, weights, ds, softmax)
                increment_version((weights, ds))
                add_product(dv[heads], weights[:, :, :count].transpose(1, 2), grad[heads, rows])
                add_product(dk[heads], ds[:, :, :count].transpose(1, 2), q[heads, rows])
                dq[heads, rows] = torch.bmm(ds, keys[heads])
        dk, dv = (x.to(k.dtype).view(k.shape) for x in (dk, dv))
        return dq.view(ctx.shape), dk, dv, None, None, None, None


def _uncast() -> torch.autocast:
    """Autocast would make products of another type than the operands'."""
    return torch.autocast("cpu", enabled=False)


def _within_reach(table: Tensor, queries: int, keys: int, offset: int) -> Tensor:
    """The rows for distances that occur; of short texts most of the table's do not."""
    clip = len(table) // 2
    farthest = max(offset + queries - 1, keys - 1 - offset, 1)
    return table[max(clip - farthest, 0) : clip + farthest + 1]


def _over_table(x: Tensor, table: Tensor) -> Tensor:
    """x [B, heads, K, d], the table, its two ends again, zeros → [B·heads, stride, d]."""
    filled = x.shape[2] + len(table) + 2
    over = x.new_empty(*x.shape[:2], _stride(x, table), x.shape[3])
    over[:, :, : x.shape[2]] = x
    over[:, :, x.shape[2] : filled - 2] = table
    over[:, :, filled - 2 : filled] = table[[0, -1]]
    over[:, :, filled:] = 0
    return over.flatten(0, 1)


def _stride(k: Tensor, table: Tensor) -> int:
    """Rows of `_over_table`, a multiple of eight."""
    return -(-(k.shape[2] + len(table) + 2) // 8) * 8


def _tiles(
    ctx: Any, k: Tensor, table: Tensor, mask: Tensor | None
) -> Iterator[tuple[slice, slice, Tile]]:
    """Heads of a tile among all texts', their queries, and the tile as the kernels know it."""
    batch, heads, queries, width = ctx.shape
    stride = _stride(k, table)
    tile = Tile(
        keys=k.shape[2],
        clip=len(table) // 2,
        stride=stride,
        queries=queries,
        offset=ctx.offset,
        text_heads=heads,
        bfloat16=k.dtype == torch.bfloat16,
        dropout=Dropout.of(ctx.dropout, ctx.seed),
        scale=width**-0.5,
    )
    if mask is not None:
        # The kernels read a row of it at a time.
        mask = mask.to(k.dtype).expand(*mask.shape[:-1], k.shape[2])
        mask = mask if mask.stride(-1) == 1 else mask.contiguous()
        mask = mask.expand(batch, heads, queries, k.shape[2])
        tile.mask = mask.data_ptr()
        tile.mask_text, tile.mask_head, tile.mask_row, _ = mask.stride()
    for some, rows in tiles(batch * heads, queries, stride * k.itemsize):
        tile.first_head, tile.heads = some.start, some.stop - some.start
        tile.first_query, tile.rows = rows.start, rows.stop - rows.start
        yield some, rows, tile
