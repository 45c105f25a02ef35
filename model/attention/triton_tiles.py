"""Functions of the kernels of relative attention for a tile of queries and a tile of keys.

Notation is that of `triton_attention.py`: [QUERIES, KEYS] tiles, D the head size, W waves.
Arguments that several functions take together are tuples:

    x         a tensor [B, heads, S, D]: pointer, and its steps of batch row, head and token
    rows      pointer to the first of some rows, and the step between them
    sequence  batch row, head, and first token in that row, of one sequence
    at        position of the first query of a tile, first key, clip distance
    ends      for each row of a tile, a number left of the band and one right of it, [QUERIES]
    tables    pointers to the tensors of `triton_attention.Tables`
    C         the Constants
"""

import math
from typing import NamedTuple

try:
    import triton
    import triton.language as tl
except ImportError:
    # transformers requires every package that a model's code imports outside of a `try`.
    raise

LOWEST = tl.constexpr(-1e30)
"""Used in place of the lowest number of a type, so that sums with it stay finite"""
LOG2E = tl.constexpr(math.log2(math.e))
ROW_FIGURES = tl.constexpr(8)
"""Numbers of a query that are kept for the backward pass: five, rounded up to a power of two"""
INTERPRETED = triton.knobs.runtime.interpret
WIDENED = tl.constexpr(INTERPRETED)
"""Whether products are in float32: the interpreter would multiply the bits of bfloat16."""


class Constants(NamedTuple):
    """What a kernel is compiled for."""

    BIASED: bool
    """Whether a number for each key is added to the scores"""
    PACKED: bool
    DROPOUT: bool
    D: int
    W: int
    PRECISION: str
    """That of products of float32: "ieee" or "tf32" """
    QUERIES: int
    KEYS: int
    ONE_EDGE: bool
    """Whether no tile reaches over both edges of the band"""


@triton.jit
def product(a, b, total, PRECISION: tl.constexpr):
    """a · b, [M, K] and [K, N], in float32, added to `total` if it is not None."""
    if WIDENED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def sequence_and_head(heads, cu_seqlens_ptr, queries, keys, PACKED: tl.constexpr):
    """The sequence and the head of a program, by the first axis of the grid.

    Returns `sequence`, the number of its first query among the queries of all heads, and its number
    of queries and of keys.
    """
    number = tl.program_id(0) // heads
    head = tl.program_id(0) % heads
    row = number.to(tl.int64)
    first = row * 0
    all_queries = queries
    if PACKED:
        first = tl.load(cu_seqlens_ptr + number).to(tl.int64)
        queries = (tl.load(cu_seqlens_ptr + number + 1) - first).to(tl.int32)
        keys = queries
        row = row * 0
    begin = (row * heads + head) * all_queries + first
    return (row, head, first), begin, queries, keys


@triton.jit
def rows_of(x, sequence):
    """The rows of a sequence and head."""
    pointer, row_step, head_step, step = x
    row, head, first = sequence
    return pointer + row * row_step + head * head_step + first * step, step


@triton.jit
def load_rows(rows, first, count, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Rows first … first + ROWS - 1 of `count`, zeros after the last: [ROWS, WIDTH]."""
    pointer, step = rows
    numbers = first + tl.arange(0, ROWS)
    places = pointer + numbers[:, None].to(tl.int64) * step + tl.arange(0, WIDTH)[None, :]
    return tl.load(places, mask=(numbers < count)[:, None], other=0.0)


@triton.jit
def store_rows(rows, first, count, x, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    pointer, step = rows
    numbers = first + tl.arange(0, ROWS)
    places = pointer + numbers[:, None].to(tl.int64) * step + tl.arange(0, WIDTH)[None, :]
    tl.store(places, x.to(pointer.dtype.element_ty), mask=(numbers < count)[:, None])


@triton.jit
def load_matrix(pointer, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """A matrix of exactly this shape."""
    return tl.load(pointer + tl.arange(0, ROWS)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :])


@triton.jit
def turned(x, position, tables, C: tl.constexpr):
    """M x rotated by the angle of its row, [QUERIES, W].

    Times the waves of keys it is the position term of the scores.
    """
    factors_ptr, _, turns_ptr, _ = tables
    cosine, sine = row_turns(position, turns_ptr, C)
    size = C.D * C.W
    straight = product(x, load_matrix(factors_ptr + 2 * size, C.D, C.W), None, C.PRECISION)
    across = product(x, load_matrix(factors_ptr + 3 * size, C.D, C.W), None, C.PRECISION)
    return straight * cosine + across * sine


@triton.jit
def turned_back(waves, position, tables, C: tl.constexpr):
    """The transpose of `turned`: sums of the waves of keys → sums of table rows, [QUERIES, D]."""
    factors_ptr, _, turns_ptr, _ = tables
    cosine, sine = row_turns(position, turns_ptr, C)
    straight = load_matrix(factors_ptr, C.W, C.D)
    across = load_matrix(factors_ptr + C.D * C.W, C.W, C.D)
    total = product((waves * cosine).to(straight.dtype), straight, None, C.PRECISION)
    return product((waves * sine).to(across.dtype), across, total, C.PRECISION)


@triton.jit
def row_turns(position, turns_ptr, C: tl.constexpr):
    """Cosine and sine of a row's position times each wave's frequency, [QUERIES, W] float32."""
    rows = (position + tl.arange(0, C.QUERIES))[:, None] * (2 * C.W)
    at = turns_ptr + rows + tl.arange(0, C.W)[None, :]
    return tl.load(at), tl.load(at + C.W)


@triton.jit
def table_end(tables, which: tl.constexpr, D: tl.constexpr):
    """The table's first row (0) or last row (1), [1, D] float32."""
    _, ends_ptr, _, _ = tables
    return tl.load(ends_ptr + which * D + tl.arange(0, D)).to(tl.float32)[None, :]


@triton.jit
def dot_ends(x, tables, D: tl.constexpr):
    """x · (the table's first row) and x · (its last row), as `ends`."""
    x = x.to(tl.float32)
    return tl.sum(x * table_end(tables, 0, D), 1), tl.sum(x * table_end(tables, 1, D), 1)


@triton.jit
def inside_the_edge(at, C: tl.constexpr):
    """For a tile that reaches over one edge of the band: the inside, and if the edge is the right.

    [QUERIES, KEYS] and a scalar.
    """
    position, first_key, clip = at
    right = first_key + C.KEYS - 1 - position > clip
    way = tl.where(right, 1, -1)
    columns = tl.arange(0, C.KEYS) * way
    rows = (position - first_key + tl.arange(0, C.QUERIES)) * way + clip
    return columns[None, :] <= rows[:, None], right


@triton.jit
def distances(at, C: tl.constexpr):
    """Key minus query, [QUERIES, KEYS]."""
    position, first_key, _ = at
    columns = first_key + tl.arange(0, C.KEYS)
    return columns[None, :] - (position + tl.arange(0, C.QUERIES))[:, None]


@triton.jit
def by_distance(products, ends, at, C: tl.constexpr):
    """The position term in a tile that may reach over the edges of the band."""
    on_left, on_right = ends
    if C.ONE_EDGE:
        inside, right = inside_the_edge(at, C)
        return tl.where(inside, products, tl.where(right, on_right, on_left)[:, None])
    _, _, clip = at
    distance = distances(at, C)
    products = tl.where(distance < -clip, on_left[:, None], products)
    return tl.where(distance > clip, on_right[:, None], products)


@triton.jit
def scores_of(q, k, turned_q, ends, waves, bias_ptr, at, keys, scale, EDGE: tl.constexpr,
              MASKED: tl.constexpr, C: tl.constexpr):  # fmt: skip
    """Scores of a tile; without the position term of its rows unless the tile is at an EDGE.

    The second result is the factor that makes them exponents of 2. MASKED: -inf after the last key.
    `scale` is log2(e) over the root of the head size.
    """
    _, first_key, _ = at
    columns = first_key + tl.arange(0, C.KEYS)
    positions = None
    if C.BIASED:
        # Before the products: a load between them would prevent that they overlap.
        bias = tl.load(bias_ptr + columns, mask=columns < keys, other=LOWEST)
    if EDGE:
        positions = product(turned_q, tl.trans(waves), None, C.PRECISION)
        positions = by_distance(positions, ends, at, C)
    scores = product(q, tl.trans(k), positions, C.PRECISION)
    if MASKED:
        # A branch costs less than a mask in all tiles, of which only the last needs it.
        partial = first_key + C.KEYS > keys
        if partial:
            scores = tl.where((columns < keys)[None, :], scores, float("-inf"))
    if C.BIASED:
        scores = scores * scale + (tl.maximum(bias, LOWEST) * LOG2E)[None, :]
        scale = 1.0
    return scores, scale


@triton.jit
def tile_spans(first, others, whole, clip, OWN: tl.constexpr, OTHER: tl.constexpr):
    """The tiles that one tile of OWN rows has to do with: outside the band, and in it.

    first: position of its first row among the rows of the others. There are `others` tiles of OTHER
    rows; those from number `whole` on, which only part of the rows fill, count as in the band.
    For each sort: how many are before a gap, the first of them, the length of the gap, and how many
    there are in all; see `tile_at`.
    """
    left = tl.minimum(tl.maximum(first - clip, 0) // OTHER, whole)
    right = tl.cdiv(tl.maximum(first + OWN + clip, 0), OTHER)
    right = tl.minimum(tl.maximum(right, left), others)
    end = tl.maximum(whole, right)
    outside = left, 0, right - left, left + end - right
    return outside, (right - left, left, end - right, right - left + others - end)


@triton.jit
def tile_at(turn, span):
    """The tile number `turn` of a span, and whether it is before the gap."""
    before, begin, gap, _ = span
    return begin + turn + tl.where(turn < before, 0, gap), turn < before


@triton.jit
def add_by_position(sums, x, waves, on_the_left, at, EDGE: tl.constexpr, C: tl.constexpr):
    """Add a tile x [QUERIES, KEYS] float32 to the sums of its rows by position.

    sums: of waves inside the band [QUERIES, W], of x left and right of it [QUERIES];
    `position_vectors` turns them into rows of the table.
    """
    by_wave, left, right = sums
    if EDGE:
        if C.ONE_EDGE:
            inside, over_right = inside_the_edge(at, C)
            banded = tl.where(inside, x, 0.0)
            beyond = tl.sum(x - banded, 1)
            left += tl.where(over_right, 0.0, beyond)
            right += tl.where(over_right, beyond, 0.0)
        else:
            _, _, clip = at
            distance = distances(at, C)
            left += tl.sum(tl.where(distance < -clip, x, 0.0), 1)
            right += tl.sum(tl.where(distance > clip, x, 0.0), 1)
            banded = tl.where((distance <= clip) & (distance >= -clip), x, 0.0)
        by_wave = product(banded.to(waves.dtype), waves, by_wave, C.PRECISION)
    else:
        total = tl.sum(x, 1)
        left += tl.where(on_the_left, total, 0.0)
        right += tl.where(on_the_left, 0.0, total)
    return by_wave, left, right


@triton.jit
def no_sums(C: tl.constexpr):
    """Zeros, from which `add_by_position` starts."""
    side = tl.zeros([C.QUERIES], tl.float32)
    return tl.zeros([C.QUERIES, C.W], tl.float32), side, side


@triton.jit
def position_vectors(sums, position, tables, C: tl.constexpr):
    """Σ_j x[i, j] T[p(i, j)], [QUERIES, D], from the sums of `add_by_position`."""
    by_wave, left, right = sums
    ends = left[:, None] * table_end(tables, 0, C.D) + right[:, None] * table_end(tables, 1, C.D)
    return turned_back(by_wave, position, tables, C) + ends


@triton.jit
def kept_by_dropout(seed, drop_below, sequence, first_row, first_key, QUERIES: tl.constexpr,
                    KEYS: tl.constexpr):  # fmt: skip
    """Dropout's mask of a tile: a function of seed, sequence, head, query and key alone.

    A call of Philox, 7 rounds (https://doi.org/10.1145/2063384.2063405), gives 16 bytes for 16 of
    2 × 32 elements, those that one thread holds of a product on tensor cores: two rows that are 8
    apart, and the same pair of each 8 columns. So each thread draws its own mask.
    """
    row, head, first = sequence
    # One of the two is zero: what is packed has one row.
    number = (row + first).to(tl.int32)
    none = tl.zeros([KEYS // 32, QUERIES // 2, 4], dtype=tl.int32)
    queries = none + (first_row // 2 + tl.arange(0, QUERIES // 2))[None, :, None]
    groups = tl.arange(0, KEYS // 32)[:, None] * 4 + tl.arange(0, 4)[None, :]
    keys = none + (first_key // 8 + groups)[:, None, :]
    a, b, c, d = tl.philox(seed, queries, keys, none + head, none + number, 7)
    words = tl.join(tl.join(a, b), tl.join(c, d)).to(tl.uint32)
    pairs = tl.join(words, words << 16)
    draws = tl.join(pairs, pairs << 8)
    # Only the highest byte of a word decides: the threshold is a multiple of 2 ** 24.
    kept = draws >= (tl.cast(drop_below, tl.uint32) << 24)
    kept = tl.reshape(kept, [KEYS // 32, QUERIES // 16, 8, 4, 4, 2, 2])
    return tl.reshape(tl.trans(kept, 1, 5, 2, 0, 4, 3, 6), [QUERIES, KEYS])
