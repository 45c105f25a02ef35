"""What the kernels of relative attention do with a tile of queries and a tile of keys.

Notation is that of `triton_attention.py`: [QUERIES, KEYS] tiles, D the head size, R frequencies.
"""

import math

try:
    import triton
    import triton.language as tl
except ImportError:
    # transformers demands every import of a model's code that stands outside of a `try`.
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
def turned(x, position, factors_ptr, turns_ptr, ROWS, D: tl.constexpr, R: tl.constexpr,
            PRECISION: tl.constexpr):  # fmt: skip
    """M x turned by its row's angle, so that a product with key waves gives the position term."""
    sine = product(x, tl.trans(load_matrix(factors_ptr, R, D)), None, PRECISION)
    cosine = product(x, tl.trans(load_matrix(factors_ptr + R * D, R, D)), None, PRECISION)
    sin_i, cos_i = row_angles(position, turns_ptr, ROWS, R)
    return sine * cos_i + cosine * sin_i, cosine * cos_i - sine * sin_i


@triton.jit
def turned_back(sine, cosine, position, factors_ptr, turns_ptr, ROWS, D: tl.constexpr,
                 R: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """The transpose of `turned`: sums of key waves become sums of table rows, [ROWS, D]."""
    sin_i, cos_i = row_angles(position, turns_ptr, ROWS, R)
    upper = load_matrix(factors_ptr, R, D)
    lower = load_matrix(factors_ptr + R * D, R, D)
    total = product((sine * cos_i - cosine * sin_i).to(upper.dtype), upper, None, PRECISION)
    return product((cosine * cos_i + sine * sin_i).to(lower.dtype), lower, total, PRECISION)


@triton.jit
def row_angles(position, turns_ptr, ROWS: tl.constexpr, R: tl.constexpr):
    """Sine and cosine of a row's position times each frequency, [ROWS, R] float32."""
    at = turns_ptr + (position + tl.arange(0, ROWS))[:, None] * (2 * R) + tl.arange(0, R)[None, :]
    return tl.load(at), tl.load(at + R)


@triton.jit
def dot_end(x, ends_ptr, which: tl.constexpr, D: tl.constexpr):
    """x · (the table's first or last row), [ROWS] float32."""
    row = tl.load(ends_ptr + which * D + tl.arange(0, D)).to(tl.float32)
    return tl.sum(x.to(tl.float32) * row[None, :], 1)


@triton.jit
def key_waves(waves_ptr, first, count, KEYS: tl.constexpr, R: tl.constexpr):
    """sin(j·f) and cos(j·f) of the keys of a tile, each [KEYS, R]."""
    sine = load_rows(waves_ptr, 2 * R, first, count, KEYS, R)
    cosine = load_rows(waves_ptr + R, 2 * R, first, count, KEYS, R)
    return sine, cosine


@triton.jit
def by_distance(products, on_left, on_right, distance, clip):
    """The position term in a tile of the band, which may reach over its edges."""
    beyond = tl.where(distance < 0, on_left[:, None], on_right[:, None])
    return tl.where((distance <= clip) & (distance >= -clip), products, beyond)


@triton.jit
def kept_by_dropout(seed, row, head, first_row, first_key, drop_below, QUERIES: tl.constexpr,
          KEYS: tl.constexpr):  # fmt: skip
    """Dropout's mask of a tile: a function of seed, batch row, head, query and key alone.

    One call of Philox (7 rounds, https://doi.org/10.1145/2063384.2063405) gives 16 bytes, for 16
    neighbouring keys.
    """
    none = tl.zeros([QUERIES, KEYS // 16], dtype=tl.int32)
    queries = (first_row + tl.arange(0, QUERIES)).to(tl.int32)[:, None] + none
    keys = first_key // 16 + tl.arange(0, KEYS // 16)[None, :] + none
    a, b, c, d = tl.philox(seed, queries, keys, none + head, none + row.to(tl.int32), 7)
    words = tl.reshape(tl.join(tl.join(a, b), tl.join(c, d)), [QUERIES, KEYS // 4])
    low = tl.join(words & 255, (words >> 8) & 255)
    high = tl.join((words >> 16) & 255, words >> 24)
    return tl.reshape(tl.join(low, high), [QUERIES, KEYS]) >= drop_below


@triton.jit
def exponents_of(q, k, turned_sine, turned_cosine, on_left, on_right, sine, cosine, bias_ptr,
               first_row, first_key, keys, offset, clip, scale, SIDE: tl.constexpr,
               BIASED: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
               PRECISION: tl.constexpr):  # fmt: skip
    """Scores of a tile in powers of two, -inf behind the last key; SIDE: -1 left, 0 band, 1 right.

    `scale` is log2(e) over the root of the head size.
    """
    columns = first_key + tl.arange(0, KEYS)
    scores = product(q, tl.trans(k), None, PRECISION)
    if SIDE == 0:
        products = product(turned_sine, tl.trans(sine), None, PRECISION)
        products = product(turned_cosine, tl.trans(cosine), products, PRECISION)
        rows = first_row + offset + tl.arange(0, QUERIES)
        distance = columns[None, :] - rows[:, None]
        scores += by_distance(products, on_left, on_right, distance, clip)
    elif SIDE < 0:
        scores += on_left[:, None]
    else:
        scores += on_right[:, None]
    scores *= scale
    if BIASED:
        bias = tl.load(bias_ptr + columns, mask=columns < keys, other=0.0)
        scores += (tl.maximum(bias, LOWEST) * LOG2E)[None, :]
    return tl.where((columns < keys)[None, :], scores, float("-inf"))


@triton.jit
def key_tile_bounds(first_row, keys, offset, clip, QUERIES: tl.constexpr, KEYS: tl.constexpr):
    """Key tiles are left of the band before the first bound, right of it from the second on."""
    tiles = tl.cdiv(keys, KEYS)
    left = tl.minimum(tl.maximum(first_row + offset - clip, 0) // KEYS, tiles)
    right = tl.cdiv(tl.maximum(first_row + offset + QUERIES + clip, 0), KEYS)
    return left, tl.minimum(tl.maximum(right, left), tiles), tiles


@triton.jit
def query_tile_bounds(first_key, queries, offset, clip, QUERIES: tl.constexpr,
                       KEYS: tl.constexpr):  # fmt: skip
    """Query tiles have the keys right of the band before the first bound, left from the second."""
    tiles = tl.cdiv(queries, QUERIES)
    right = tl.minimum(tl.maximum(first_key - offset - clip, 0) // QUERIES, tiles)
    left = tl.cdiv(tl.maximum(first_key + KEYS - offset + clip, 0), QUERIES)
    return right, tl.minimum(tl.maximum(left, right), tiles), tiles


@triton.jit
def ends_by_mass(mass_left, mass_right, ends_ptr, D: tl.constexpr):
    """What lies beyond the clip distance adds the table's first and last row by its weight."""
    columns = tl.arange(0, D)
    left = tl.load(ends_ptr + columns).to(tl.float32)
    right = tl.load(ends_ptr + D + columns).to(tl.float32)
    return mass_left[:, None] * left[None, :] + mass_right[:, None] * right[None, :]


@triton.jit
def add_by_position(
    sums, x, sine, cosine, first_row, first_key, offset, clip,
    SIDE: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add a tile x [QUERIES, KEYS] float32 to what its rows have by position.

    sums: of the waves inside the band, sine and cosine [QUERIES, R], and left and right of it
    [QUERIES]; `position_vectors` makes the table's rows of them.
    """
    sum_sine, sum_cosine, on_left, on_right = sums
    if SIDE == 0:
        rows = first_row + offset + tl.arange(0, QUERIES)
        distance = (first_key + tl.arange(0, KEYS))[None, :] - rows[:, None]
        on_left += tl.sum(tl.where(distance < -clip, x, 0.0), 1)
        on_right += tl.sum(tl.where(distance > clip, x, 0.0), 1)
        inside = (distance <= clip) & (distance >= -clip)
        banded = tl.where(inside, x, 0.0).to(sine.dtype)
        sum_sine = product(banded, sine, sum_sine, PRECISION)
        sum_cosine = product(banded, cosine, sum_cosine, PRECISION)
    elif SIDE < 0:
        on_left += tl.sum(x, 1)
    else:
        on_right += tl.sum(x, 1)
    return sum_sine, sum_cosine, on_left, on_right


@triton.jit
def no_sums(ROWS: tl.constexpr, R: tl.constexpr):
    """What `add_by_position` starts from."""
    waves, sides = tl.zeros([ROWS, R], tl.float32), tl.zeros([ROWS], tl.float32)
    return waves, waves, sides, sides


@triton.jit
def position_vectors(sums, position, factors_ptr, ends_ptr, turns_ptr, ROWS, D: tl.constexpr,
                     R: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Σ_j x[i, j] T[p(i, j)], [ROWS, D], of what `add_by_position` summed up."""
    sum_sine, sum_cosine, on_left, on_right = sums
    total = turned_back(
        sum_sine, sum_cosine, position, factors_ptr, turns_ptr, ROWS, D, R, PRECISION
    )
    return total + ends_by_mass(on_left, on_right, ends_ptr, D)
