"""Parts of the kernels of relative attention: functions on a tile of queries and a tile of keys.

Notation is that of `triton_attention.py`: D is the head size, W the number of waves. A tile is
[QUERIES, KEYS], or [KEYS, QUERIES] with C.BY_KEY: then the gradients of keys and values are
products of tiles that are in registers already, and no tile goes through shared memory.
Arguments that several functions take together are tuples:

    x         a tensor [B, heads, S, D]: pointer, and its steps of batch row, head and token
    rows      pointer to the first of some rows, and the step between them
    sequence  batch row, head, and first token in that row, of one sequence
    at        position of the first query of a tile, first key, clip distance
    ends      for each query of a tile, a number left of the band and one right of it, [QUERIES]
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
"""Numbers of a query that `queries_kernel` leaves for `keys_kernel`"""
INTERPRETED = triton.knobs.runtime.interpret
WIDENED = tl.constexpr(INTERPRETED)
"""Whether products are in float32: the interpreter would multiply the bits of bfloat16."""


class Constants(NamedTuple):
    """What a kernel is compiled for.

    Functions take all of it, not single fields: in Triton 3.6 a field is a number of Python, and a
    compiled function does not accept one. `tl.zeros` is a compiled function, `tl.full` is not.
    """

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
    BY_KEY: bool
    """Whether tiles are [KEYS, QUERIES]"""
    SLOTS: int
    """Sequences begin at multiples of it in the memory between the backward kernels."""
    ONE_EDGE: bool
    """Whether no tile reaches over both edges of the band"""


@triton.jit
def product(a, b, total, C: tl.constexpr):
    """a · b, [M, K] and [K, N], in float32, added to `total` if it is not None."""
    if WIDENED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision=C.PRECISION)


@triton.jit
def of_queries(x, C: tl.constexpr):
    """Numbers of queries, to broadcast over the keys of a tile."""
    if C.BY_KEY:
        return x[None, :]
    else:
        return x[:, None]


@triton.jit
def of_keys(x, C: tl.constexpr):
    """Numbers of keys, to broadcast over the queries of a tile."""
    if C.BY_KEY:
        return x[:, None]
    else:
        return x[None, :]


@triton.jit
def pair_products(queries, keys, total, C: tl.constexpr):
    """The product of each row of queries with each row of keys, added to `total` unless None."""
    if C.BY_KEY:
        return product(keys, tl.trans(queries), total, C)
    else:
        return product(queries, tl.trans(keys), total, C)


@triton.jit
def place_of(tiles, heads, cu_seqlens_ptr, queries, keys, slots, C: tl.constexpr):
    """The tile of a program, of `tiles` of a sequence and head, and where the sequence is.

    The tiles of a sequence and head have neighbouring numbers: they run at the same time and find
    each other's keys and values in the L2 cache.

    Returns the number of the tile, `sequence`, its number of queries and of keys, the number of its
    first query among the queries of all heads, and that among the `slots` · SLOTS places of a head
    between the backward kernels.
    """
    tile = tl.program_id(0) % tiles
    number = tl.program_id(0) // tiles // heads
    head = tl.program_id(0) // tiles % heads
    row = number.to(tl.int64)
    first = row * 0
    all_queries = queries
    slot = first
    if C.PACKED:
        first = tl.load(cu_seqlens_ptr + number).to(tl.int64)
        queries = (tl.load(cu_seqlens_ptr + number + 1) - first).to(tl.int32)
        keys = queries
        slot = first // C.SLOTS + number
        row = row * 0
    begin = (row * heads + head) * all_queries + first
    slot += (row * heads + head) * slots * ROW_FIGURES
    return tile, (row, head, first), queries, keys, begin, slot * C.SLOTS


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
    straight = product(x, load_matrix(factors_ptr + 2 * size, C.D, C.W), None, C)
    across = product(x, load_matrix(factors_ptr + 3 * size, C.D, C.W), None, C)
    return straight * cosine + across * sine


@triton.jit
def turned_back(waves, position, tables, C: tl.constexpr):
    """The transpose of `turned`: sums of the waves of keys → sums of table rows, [QUERIES, D]."""
    factors_ptr, _, turns_ptr, _ = tables
    cosine, sine = row_turns(position, turns_ptr, C)
    straight = load_matrix(factors_ptr, C.W, C.D)
    across = load_matrix(factors_ptr + C.D * C.W, C.W, C.D)
    total = product((waves * cosine).to(straight.dtype), straight, None, C)
    return product((waves * sine).to(across.dtype), across, total, C)


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
def over_right(at, C: tl.constexpr):
    """Whether a tile reaches over the right edge of the band, a scalar."""
    position, first_key, clip = at
    return first_key + C.KEYS - 1 - position > clip


@triton.jit
def inside_the_edge(at, C: tl.constexpr):
    """For a tile that reaches over one edge of the band: what is inside, as booleans."""
    position, first_key, clip = at
    way = tl.where(over_right(at, C), 1, -1)
    keys = tl.arange(0, C.KEYS) * way
    queries = (position - first_key + tl.arange(0, C.QUERIES)) * way + clip
    return of_keys(keys, C) <= of_queries(queries, C)


@triton.jit
def distances(at, C: tl.constexpr):
    """Key minus query, a tile."""
    position, first_key, _ = at
    keys = first_key + tl.arange(0, C.KEYS)
    return of_keys(keys, C) - of_queries(position + tl.arange(0, C.QUERIES), C)


@triton.jit
def by_distance(products, ends, at, C: tl.constexpr):
    """The position term in a tile that may reach over the edges of the band."""
    on_left, on_right = ends
    if C.ONE_EDGE:
        end = tl.where(over_right(at, C), on_right, on_left)
        return tl.where(inside_the_edge(at, C), products, of_queries(end, C))
    _, _, clip = at
    distance = distances(at, C)
    products = tl.where(distance < -clip, of_queries(on_left, C), products)
    return tl.where(distance > clip, of_queries(on_right, C), products)


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
        positions = by_distance(pair_products(turned_q, waves, None, C), ends, at, C)
    scores = pair_products(q, k, positions, C)
    if MASKED:
        # A branch costs less than a mask in all tiles, of which only the last needs it.
        partial = first_key + C.KEYS > keys
        if partial:
            scores = tl.where(of_keys(columns < keys, C), scores, float("-inf"))
    if C.BIASED:
        scores = scores * scale + of_keys(tl.maximum(bias, LOWEST) * LOG2E, C)
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
            banded = tl.where(inside_the_edge(at, C), x, 0.0)
            beyond = tl.sum(x - banded, 1)
            left += tl.where(over_right(at, C), 0.0, beyond)
            right += tl.where(over_right(at, C), beyond, 0.0)
        else:
            _, _, clip = at
            distance = distances(at, C)
            left += tl.sum(tl.where(distance < -clip, x, 0.0), 1)
            right += tl.sum(tl.where(distance > clip, x, 0.0), 1)
            banded = tl.where((distance <= clip) & (distance >= -clip), x, 0.0)
        by_wave = product(banded.to(waves.dtype), waves, by_wave, C)
    else:
        total = tl.sum(x, 1)
        left += tl.where(on_the_left, total, 0.0)
        right += tl.where(on_the_left, 0.0, total)
    return by_wave, left, right


@triton.jit
def no_sums(C: tl.constexpr):
    """Zeros, from which `add_by_position` starts."""
    side = tl.full([C.QUERIES], 0.0, tl.float32)
    return tl.full([C.QUERIES, C.W], 0.0, tl.float32), side, side


@triton.jit
def position_vectors(sums, position, tables, C: tl.constexpr):
    """Σ_j x[i, j] T[p(i, j)], [QUERIES, D], from the sums of `add_by_position`."""
    by_wave, left, right = sums
    ends = left[:, None] * table_end(tables, 0, C.D) + right[:, None] * table_end(tables, 1, C.D)
    return turned_back(by_wave, position, tables, C) + ends


@triton.jit
def dropout_words(seed, sequence):
    """Two random words for a sequence and head, of which `kept_by_dropout` makes its mask.

    By Philox (https://doi.org/10.1145/2063384.2063405).
    """
    row, head, first = sequence
    # One of the two is zero: packed sequences are in one row.
    number = (row + first).to(tl.int32)
    one, two, _, _ = tl.philox(seed, head.to(tl.int32), number, number * 0, number * 0)
    return one.to(tl.uint32, bitcast=True), two.to(tl.uint32, bitcast=True)


@triton.jit
def kept_by_dropout(words, drop_below, first_row, first_key, C: tl.constexpr):
    """Dropout's mask of a tile: a function of `dropout_words`, query and key alone.

    A word has a byte for each of 2 × 2 elements: two queries that are 8 apart and two keys that are
    8 apart. Whether a tile is [QUERIES, KEYS] or [KEYS, QUERIES], one thread holds these four of a
    product on tensor cores, so that each thread draws its own mask.

    The number of the four, unique below 131,072 tokens, is hashed by two rounds of multiplication
    (constants: https://github.com/skeeto/hash-prospector/issues/19).
    """
    one, two = words
    queries = (first_row // 2 + tl.arange(0, C.QUERIES // 2)).to(tl.uint32) << 16
    keys = (first_key // 2 + tl.arange(0, C.KEYS // 2)).to(tl.uint32)
    x = of_queries(queries ^ one, C) ^ of_keys(keys, C)
    x = (x ^ (x >> 16)) * 0x21F0AAAD + two
    x = (x ^ (x >> 15)) * 0xD35A2D97
    x ^= x >> 15
    pairs = tl.join(x, x << 16)
    draws = tl.join(pairs, pairs << 8)
    # Only the highest byte decides: the threshold is a multiple of 2 ** 24.
    kept = draws >= (tl.cast(drop_below, tl.uint32) << 24)
    if C.BY_KEY:
        kept = tl.reshape(kept, [C.KEYS // 16, 8, C.QUERIES // 16, 8, 2, 2])
        return tl.reshape(tl.trans(kept, 0, 5, 1, 2, 4, 3), [C.KEYS, C.QUERIES])
    else:
        kept = tl.reshape(kept, [C.QUERIES // 16, 8, C.KEYS // 16, 8, 2, 2])
        return tl.reshape(tl.trans(kept, 0, 4, 1, 2, 5, 3), [C.QUERIES, C.KEYS])
