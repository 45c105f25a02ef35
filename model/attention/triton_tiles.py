"""What the kernels of relative attention do with a tile of queries and a tile of keys.

Notation is that of `triton_attention.py`: [QUERIES, KEYS] tiles, D the head size, W waves.
"""

import math

try:
    import triton
    import triton.language as tl
except ImportError:
    # transformers requires every package that a model's code imports outside of a `try`.
    raise

LOWEST = tl.constexpr(-1e30)
"""Stands for the lowest number of any type, and leaves room for arithmetic."""
LOG2E = tl.constexpr(math.log2(math.e))
ROW_FIGURES = tl.constexpr(8)
"""Numbers kept of a query for the backward pass, in a power of two: five are used."""
INTERPRETED = triton.knobs.runtime.interpret
WIDENED = tl.constexpr(INTERPRETED)
"""The interpreter multiplies the bits of bfloat16; in float32 its products are the same."""


@triton.jit
def product(a, b, total, PRECISION: tl.constexpr):
    """a · b, [M, K] and [K, N], in float32, added to `total` where there is one."""
    if WIDENED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def text_and_head(heads, cu_seqlens_ptr, queries, keys, PACKED: tl.constexpr):
    """Where a program works: first axis of the grid, texts and their heads.

    Returns batch row, head, first token of the text, number of its first query among the queries
    of all heads, and the text's queries and keys.
    """
    text = tl.program_id(0) // heads
    head = tl.program_id(0) % heads
    row = text.to(tl.int64)
    first = row * 0
    all_queries = queries
    if PACKED:
        first = tl.load(cu_seqlens_ptr + text).to(tl.int64)
        queries = (tl.load(cu_seqlens_ptr + text + 1) - first).to(tl.int32)
        keys = queries
        row = row * 0
    begin = (row * heads + head) * all_queries + first
    return row, head, first, begin, queries, keys


@triton.jit
def load_rows(pointer, stride, first, count, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Rows first … first + ROWS - 1 of `count`, zeros behind them: [ROWS, WIDTH]."""
    rows = first + tl.arange(0, ROWS)
    columns = tl.arange(0, WIDTH)
    return tl.load(
        pointer + rows[:, None].to(tl.int64) * stride + columns[None, :],
        mask=(rows < count)[:, None],
        other=0.0,
    )


@triton.jit
def store_rows(pointer, stride, first, count, x, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    rows = first + tl.arange(0, ROWS)
    columns = tl.arange(0, WIDTH)
    tl.store(
        pointer + rows[:, None].to(tl.int64) * stride + columns[None, :],
        x.to(pointer.dtype.element_ty),
        mask=(rows < count)[:, None],
    )


@triton.jit
def load_matrix(pointer, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """A matrix of exactly this shape."""
    return tl.load(pointer + tl.arange(0, ROWS)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :])


@triton.jit
def turned(x, position, factors_ptr, turns_ptr, ROWS: tl.constexpr, D: tl.constexpr,
           W: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """M x turned by its row's angle, [ROWS, W]: its product with key waves is the position term."""
    cosine, sine = row_turns(position, turns_ptr, ROWS, W)
    straight = product(x, load_matrix(factors_ptr + 2 * D * W, D, W), None, PRECISION)
    across = product(x, load_matrix(factors_ptr + 3 * D * W, D, W), None, PRECISION)
    return straight * cosine + across * sine


@triton.jit
def turned_back(waves, position, factors_ptr, turns_ptr, ROWS: tl.constexpr, D: tl.constexpr,
                W: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """The transpose of `turned`: sums of key waves become sums of table rows, [ROWS, D]."""
    cosine, sine = row_turns(position, turns_ptr, ROWS, W)
    straight = load_matrix(factors_ptr, W, D)
    across = load_matrix(factors_ptr + D * W, W, D)
    total = product((waves * cosine).to(straight.dtype), straight, None, PRECISION)
    return product((waves * sine).to(across.dtype), across, total, PRECISION)


@triton.jit
def row_turns(position, turns_ptr, ROWS: tl.constexpr, W: tl.constexpr):
    """Cosine and sine of a row's position times each wave's frequency, [ROWS, W] float32."""
    at = turns_ptr + (position + tl.arange(0, ROWS))[:, None] * (2 * W) + tl.arange(0, W)[None, :]
    return tl.load(at), tl.load(at + W)


@triton.jit
def dot_end(x, ends_ptr, which: tl.constexpr, D: tl.constexpr):
    """x · (the table's first or last row), [ROWS] float32."""
    row = tl.load(ends_ptr + which * D + tl.arange(0, D)).to(tl.float32)
    return tl.sum(x.to(tl.float32) * row[None, :], 1)


@triton.jit
def inside_the_edge(first_row, first_key, clip, QUERIES: tl.constexpr, KEYS: tl.constexpr):
    """For a tile that reaches over one edge of the band: what lies inside, and if it is the right.

    [QUERIES, KEYS] and a scalar; `first_row` counts in the positions of keys.
    """
    right = first_key + KEYS - 1 - first_row > clip
    way = tl.where(right, 1, -1)
    columns = tl.arange(0, KEYS) * way
    rows = (first_row - first_key + tl.arange(0, QUERIES)) * way + clip
    return columns[None, :] <= rows[:, None], right


@triton.jit
def distances(first_row, first_key, QUERIES: tl.constexpr, KEYS: tl.constexpr):
    columns = first_key + tl.arange(0, KEYS)
    return columns[None, :] - (first_row + tl.arange(0, QUERIES))[:, None]


@triton.jit
def by_distance(products, on_left, on_right, first_row, first_key, clip,
                ONE_EDGE: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr):  # fmt: skip
    """The position term in a tile that may reach over the edges of the band."""
    if ONE_EDGE:
        inside, right = inside_the_edge(first_row, first_key, clip, QUERIES, KEYS)
        return tl.where(inside, products, tl.where(right, on_right, on_left)[:, None])
    distance = distances(first_row, first_key, QUERIES, KEYS)
    products = tl.where(distance < -clip, on_left[:, None], products)
    return tl.where(distance > clip, on_right[:, None], products)


@triton.jit
def scores_of(q, k, turned_q, on_left, on_right, waves, bias_ptr, first_row, first_key, keys,
              clip, scale, EDGE: tl.constexpr, ONE_EDGE: tl.constexpr, MASKED: tl.constexpr,
              BIASED: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
              PRECISION: tl.constexpr):  # fmt: skip
    """Scores of a tile without what its rows have beyond the band, unless it is at an EDGE.

    Returned with the factor that makes powers of two of them. MASKED: -inf behind the last key.
    `scale` is log2(e) over the root of the head size.
    """
    columns = first_key + tl.arange(0, KEYS)
    positions = None
    if BIASED:
        # Before the products: between them it would keep them from overlapping.
        bias = tl.load(bias_ptr + columns, mask=columns < keys, other=LOWEST)
    if EDGE:
        positions = product(turned_q, tl.trans(waves), None, PRECISION)
        positions = by_distance(
            positions, on_left, on_right, first_row, first_key, clip, ONE_EDGE, QUERIES, KEYS
        )
    scores = product(q, tl.trans(k), positions, PRECISION)
    if MASKED:
        # A branch costs less than a mask that all tiles but one could do without.
        partial = first_key + KEYS > keys
        if partial:
            scores = tl.where((columns < keys)[None, :], scores, float("-inf"))
    if BIASED:
        scores = scores * scale + (tl.maximum(bias, LOWEST) * LOG2E)[None, :]
        scale = 1.0
    return scores, scale


@triton.jit
def key_tiles(first_row, keys, clip, QUERIES: tl.constexpr, KEYS: tl.constexpr):
    """Which key tiles lie beside the band, and which in it or behind the last whole tile.

    Of each sort: how many there are before a gap, where they begin, the length of the gap, and how
    many there are in all; see `tile_at`.
    """
    tiles, whole = tl.cdiv(keys, KEYS), keys // KEYS
    left = tl.minimum(tl.maximum(first_row - clip, 0) // KEYS, whole)
    right = tl.cdiv(tl.maximum(first_row + QUERIES + clip, 0), KEYS)
    right = tl.minimum(tl.maximum(right, left), tiles)
    end = tl.maximum(whole, right)
    beside = left, 0, right - left, left + end - right
    return beside, (right - left, left, end - right, right - left + tiles - end)


@triton.jit
def query_tiles(first_key, queries, clip, QUERIES: tl.constexpr, KEYS: tl.constexpr):
    """As `key_tiles`, the query tiles of a key tile; all count as whole.

    `first_key` counts in the positions of queries.
    """
    tiles = tl.cdiv(queries, QUERIES)
    right = tl.minimum(tl.maximum(first_key - clip, 0) // QUERIES, tiles)
    left = tl.cdiv(tl.maximum(first_key + KEYS + clip, 0), QUERIES)
    left = tl.minimum(tl.maximum(left, right), tiles)
    return (right, 0, left - right, tiles - left + right), (left - right, right, 0, left - right)


@triton.jit
def tile_at(turn, span):
    """The tile of a turn, and if it lies before the gap."""
    before, begin, gap, _ = span
    return begin + turn + tl.where(turn < before, 0, gap), turn < before


@triton.jit
def ends_by_mass(mass_left, mass_right, ends_ptr, D: tl.constexpr):
    """What lies beyond the clip distance adds the table's first and last row by its weight."""
    columns = tl.arange(0, D)
    left = tl.load(ends_ptr + columns).to(tl.float32)
    right = tl.load(ends_ptr + D + columns).to(tl.float32)
    return mass_left[:, None] * left[None, :] + mass_right[:, None] * right[None, :]


@triton.jit
def add_by_position(
    sums, x, waves, on_the_left, first_row, first_key, clip, EDGE: tl.constexpr,
    ONE_EDGE: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add a tile x [QUERIES, KEYS] float32 to what its rows have by position.

    sums: of the waves inside the band [QUERIES, W], and left and right of it [QUERIES];
    `position_vectors` makes the table's rows of them.
    """
    by_wave, left, right = sums
    if EDGE:
        if ONE_EDGE:
            inside, over_right = inside_the_edge(first_row, first_key, clip, QUERIES, KEYS)
            banded = tl.where(inside, x, 0.0)
            beyond = tl.sum(x - banded, 1)
            left += tl.where(over_right, 0.0, beyond)
            right += tl.where(over_right, beyond, 0.0)
        else:
            distance = distances(first_row, first_key, QUERIES, KEYS)
            left += tl.sum(tl.where(distance < -clip, x, 0.0), 1)
            right += tl.sum(tl.where(distance > clip, x, 0.0), 1)
            banded = tl.where((distance <= clip) & (distance >= -clip), x, 0.0)
        by_wave = product(banded.to(waves.dtype), waves, by_wave, PRECISION)
    else:
        total = tl.sum(x, 1)
        left += tl.where(on_the_left, total, 0.0)
        right += tl.where(on_the_left, 0.0, total)
    return by_wave, left, right


@triton.jit
def no_sums(ROWS: tl.constexpr, W: tl.constexpr):
    """What `add_by_position` starts from."""
    side = tl.zeros([ROWS], tl.float32)
    return tl.zeros([ROWS, W], tl.float32), side, side


@triton.jit
def position_vectors(sums, position, factors_ptr, ends_ptr, turns_ptr, ROWS: tl.constexpr,
                     D: tl.constexpr, W: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Σ_j x[i, j] T[p(i, j)], [ROWS, D], of what `add_by_position` summed up."""
    by_wave, left, right = sums
    total = turned_back(by_wave, position, factors_ptr, turns_ptr, ROWS, D, W, PRECISION)
    return total + ends_by_mass(left, right, ends_ptr, D)
