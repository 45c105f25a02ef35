"""Functions of the kernels of relative attention for a tile of queries and a tile of keys.

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
"""Used in place of the lowest number of a type, so that sums with it stay finite"""
LOG2E = tl.constexpr(math.log2(math.e))
ROW_FIGURES = tl.constexpr(8)
"""Numbers of a query that are kept for the backward pass: five, rounded up to a power of two"""
INTERPRETED = triton.knobs.runtime.interpret
WIDENED = tl.constexpr(INTERPRETED)
"""Whether products are in float32: the interpreter would multiply the bits of bfloat16."""


@triton.jit
def product(a, b, total, PRECISION: tl.constexpr):
    """a · b, [M, K] and [K, N], in float32, added to `total` if it is not None."""
    if WIDENED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def sequence_and_head(heads, cu_seqlens_ptr, queries, keys, PACKED: tl.constexpr):
    """The sequence and the head of a program, by the first axis of the grid.

    Returns batch row, head, first token of the sequence, number of its first query among the
    queries of all heads, and the sequence's number of queries and of keys.
    """
    sequence = tl.program_id(0) // heads
    head = tl.program_id(0) % heads
    row = sequence.to(tl.int64)
    first = row * 0
    all_queries = queries
    if PACKED:
        first = tl.load(cu_seqlens_ptr + sequence).to(tl.int64)
        queries = (tl.load(cu_seqlens_ptr + sequence + 1) - first).to(tl.int32)
        keys = queries
        row = row * 0
    begin = (row * heads + head) * all_queries + first
    return row, head, first, begin, queries, keys


@triton.jit
def load_rows(pointer, stride, first, count, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Rows first … first + ROWS - 1 of `count`, zeros after the last: [ROWS, WIDTH]."""
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
    """M x rotated by the angle of its row, [ROWS, W]; times key waves it is the position term."""
    cosine, sine = row_turns(position, turns_ptr, ROWS, W)
    straight = product(x, load_matrix(factors_ptr + 2 * D * W, D, W), None, PRECISION)
    across = product(x, load_matrix(factors_ptr + 3 * D * W, D, W), None, PRECISION)
    return straight * cosine + across * sine


@triton.jit
def turned_back(waves, position, factors_ptr, turns_ptr, ROWS: tl.constexpr, D: tl.constexpr,
                W: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """The transpose of `turned`: sums of the waves of keys → sums of table rows, [ROWS, D]."""
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
    """For a tile that reaches over one edge of the band: the inside, and if the edge is the right.

    [QUERIES, KEYS] and a scalar; `first_row` is a position among the keys.
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
    """Scores of a tile; without the position term of its rows unless the tile is at an EDGE.

    The second result is the factor that makes them exponents of 2. MASKED: -inf after the last key.
    `scale` is log2(e) over the root of the head size.
    """
    columns = first_key + tl.arange(0, KEYS)
    positions = None
    if BIASED:
        # Before the products: a load between them would prevent that they overlap.
        bias = tl.load(bias_ptr + columns, mask=columns < keys, other=LOWEST)
    if EDGE:
        positions = product(turned_q, tl.trans(waves), None, PRECISION)
        positions = by_distance(
            positions, on_left, on_right, first_row, first_key, clip, ONE_EDGE, QUERIES, KEYS
        )
    scores = product(q, tl.trans(k), positions, PRECISION)
    if MASKED:
        # A branch costs less than a mask in all tiles, of which only the last needs it.
        partial = first_key + KEYS > keys
        if partial:
            scores = tl.where((columns < keys)[None, :], scores, float("-inf"))
    if BIASED:
        scores = scores * scale + (tl.maximum(bias, LOWEST) * LOG2E)[None, :]
        scale = 1.0
    return scores, scale


@triton.jit
def key_tiles(first_row, keys, clip, QUERIES: tl.constexpr, KEYS: tl.constexpr):
    """The key tiles outside the band, and those in it or after the last whole tile.

    For each sort: how many are before a gap, the first of them, the length of the gap, and how many
    there are in all; see `tile_at`.
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
    """The query tiles of a key tile, in the form of `key_tiles`; all count as whole.

    `first_key` is a position among the queries.
    """
    tiles = tl.cdiv(queries, QUERIES)
    right = tl.minimum(tl.maximum(first_key - clip, 0) // QUERIES, tiles)
    left = tl.cdiv(tl.maximum(first_key + KEYS + clip, 0), QUERIES)
    left = tl.minimum(tl.maximum(left, right), tiles)
    return (right, 0, left - right, tiles - left + right), (left - right, right, 0, left - right)


@triton.jit
def tile_at(turn, span):
    """The tile number `turn` of a span, and whether it is before the gap."""
    before, begin, gap, _ = span
    return begin + turn + tl.where(turn < before, 0, gap), turn < before


@triton.jit
def ends_by_mass(mass_left, mass_right, ends_ptr, D: tl.constexpr):
    """The first and the last row of the table times the weights beyond the clip distance."""
    columns = tl.arange(0, D)
    left = tl.load(ends_ptr + columns).to(tl.float32)
    right = tl.load(ends_ptr + D + columns).to(tl.float32)
    return mass_left[:, None] * left[None, :] + mass_right[:, None] * right[None, :]


@triton.jit
def add_by_position(
    sums, x, waves, on_the_left, first_row, first_key, clip, EDGE: tl.constexpr,
    ONE_EDGE: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add a tile x [QUERIES, KEYS] float32 to the sums of its rows by position.

    sums: of waves inside the band [QUERIES, W], of x left and right of it [QUERIES];
    `position_vectors` turns them into rows of the table.
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
    """Zeros, from which `add_by_position` starts."""
    side = tl.zeros([ROWS], tl.float32)
    return tl.zeros([ROWS, W], tl.float32), side, side


@triton.jit
def position_vectors(sums, position, factors_ptr, ends_ptr, turns_ptr, ROWS: tl.constexpr,
                     D: tl.constexpr, W: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Σ_j x[i, j] T[p(i, j)], [ROWS, D], from the sums of `add_by_position`."""
    by_wave, left, right = sums
    total = turned_back(by_wave, position, factors_ptr, turns_ptr, ROWS, D, W, PRECISION)
    return total + ends_by_mass(left, right, ends_ptr, D)


@triton.jit
def kept_by_dropout(seed, sequence, head, first_row, first_key, drop_below, QUERIES: tl.constexpr,
                    KEYS: tl.constexpr):  # fmt: skip
    """Dropout's mask of a tile: a function of seed, sequence, head, query and key alone.

    A call of Philox, 7 rounds (https://doi.org/10.1145/2063384.2063405), gives 16 bytes for 16 of
    2 × 32 elements, those that one thread holds of a product on tensor cores: two rows that are 8
    apart, and the same pair of each 8 columns. So each thread draws its own mask.
    """
    none = tl.zeros([KEYS // 32, QUERIES // 2, 4], dtype=tl.int32)
    queries = none + (first_row // 2 + tl.arange(0, QUERIES // 2))[None, :, None]
    groups = tl.arange(0, KEYS // 32)[:, None] * 4 + tl.arange(0, 4)[None, :]
    keys = none + (first_key // 8 + groups)[:, None, :]
    a, b, c, d = tl.philox(seed, queries, keys, none + head, none + sequence, 7)
    words = tl.join(tl.join(a, b), tl.join(c, d)).to(tl.uint32)
    pairs = tl.join(words, words << 16)
    draws = tl.join(pairs, pairs << 8)
    # Only the highest byte of a word decides: the threshold is a multiple of 2 ** 24.
    kept = draws >= (tl.cast(drop_below, tl.uint32) << 24)
    kept = tl.reshape(kept, [KEYS // 32, QUERIES // 16, 8, 4, 4, 2, 2])
    return tl.reshape(tl.trans(kept, 1, 5, 2, 0, 4, 3, 6), [QUERIES, KEYS])
