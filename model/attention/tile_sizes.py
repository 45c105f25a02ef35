"""How attention on CPUs is cut into tiles that stay in the cache."""

from collections.abc import Iterator

import torch
from torch import Tensor

TILE_BYTES = 2**22
"""Scores of a tile: so many that they stay in the cache."""

ROWS = 128
"""Queries of a tile are a multiple of it, unless it has all of them."""


def tiles(heads: int, queries: int, row_bytes: int) -> Iterator[tuple[slice, slice]]:
    """Which heads and which of their queries make up a tile; a query's scores take `row_bytes`."""
    height = tile_height(queries, row_bytes)
    group = max(1, TILE_BYTES // (height * row_bytes))
    for top in range(0, queries, height):
        for head in range(0, heads, group):
            yield slice(head, min(head + group, heads)), slice(top, min(top + height, queries))


def tile_height(queries: int, row_bytes: int) -> int:
    """Queries of a tile: all if a head's scores fit, and at least one."""
    return min(max(queries, 1), max(TILE_BYTES // row_bytes // ROWS * ROWS, ROWS))


def sum_dtype(dtype: torch.dtype, queries: int, row_bytes: int) -> torch.dtype:
    """In which to add up gradients of keys and values over tiles of queries.

    Float32 or wider; a tile of all queries needs no sum.
    """
    if tile_height(queries, row_bytes) == queries:
        return dtype
    return torch.promote_types(dtype, torch.float32)


def flat(x: Tensor) -> Tensor:
    """[B, heads, S, d] → [B·heads, S, d] in one piece of memory.

    Products with strided operands take twice as long in bfloat16.
    """
    return x.flatten(0, 1).contiguous()


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a b, in place."""
    if total.dtype == a.dtype:
        total.baddbmm_(a, b)
    else:
        total += torch.bmm(a, b)
