"""How attention on CPUs is cut into tiles that stay in the cache."""

from collections.abc import Iterator

import torch

TILE_BYTES = 2**22
"""Scores of a tile: as many as stay in the cache."""

ROWS = 128
"""The queries of a tile are a multiple of it, or all queries."""


def tiles(heads: int, queries: int, row_bytes: int) -> Iterator[tuple[slice, slice]]:
    """Heads and queries of each tile; the scores of one query take `row_bytes`."""
    height = tile_height(queries, row_bytes)
    group = max(1, TILE_BYTES // max(height * row_bytes, 1))
    for top in range(0, queries, height):
        for head in range(0, heads, group):
            yield slice(head, min(head + group, heads)), slice(top, min(top + height, queries))


def tile_height(queries: int, row_bytes: int) -> int:
    """Queries of a tile: all if the scores of a head fit, and at least one."""
    return min(max(queries, 1), max(TILE_BYTES // max(row_bytes, 1) // ROWS * ROWS, ROWS))


def sum_dtype(dtype: torch.dtype, queries: int, row_bytes: int) -> torch.dtype:
    """The type in which gradients of keys and values are summed over tiles of queries.

    Float32 or wider; a tile of all queries needs no sum.
    """
    if tile_height(queries, row_bytes) == queries:
        return dtype
    return torch.promote_types(dtype, torch.float32)
