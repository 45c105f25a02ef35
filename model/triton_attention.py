"""Relative attention as fused Triton kernels, forward and backward, in memory linear in length.

The function is that of `relative_attention.py`. A tile of queries meets tiles of keys of three
sorts. Left and right of the band |j - i| ≤ k the position term is one number a row; in the band it
is a product of width 2R, because the table is made of waves (see `table_factors.py`):

    q_i · T[j - i + k] = s_i · sin(j·f) + c_i · cos(j·f)    (s_i, c_i) = M q_i turned by i·f
    Σ_j α_ij T[j - i + k] = M applied to (Σ_j α_ij sin(j·f), Σ_j α_ij cos(j·f)) turned back by i·f

The tiling, the running maximum and the backward pass from the log-sum-exp are FlashAttention's
(https://arxiv.org/abs/2205.14135, https://arxiv.org/abs/2307.08691). Every sum has a fixed order:
the same operands give the same bits.
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

try:
    import triton
    import triton.language as tl
except ImportError:
    # transformers demands every import of a model's code that stands outside of a `try`.
    raise

from .cpu_dropout import new_seed
from .table_factors import table_factors

HEAD_SIZES = (16, 32, 64, 128)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LEVELS = 256
"""A byte decides whether an element is dropped: rates are rounded to a 256th."""
LOWEST = tl.constexpr(-1e30)
"""Stands for the lowest number of any type, and leaves room for arithmetic."""
LOG2E = math.log2(math.e)
INTERPRETED = triton.knobs.runtime.interpret
WIDENED = tl.constexpr(INTERPRETED)
"""The interpreter multiplies the bits of bfloat16; in float32 its products are the same."""


class Tiles(NamedTuple):
    """Shape of a kernel's work: queries and keys of a tile, warps, loads in flight."""

    queries: int
    keys: int
    warps: int
    stages: int


def _tiles(head_size: int, dtype: torch.dtype) -> dict[str, Tiles]:
    """Tiles that fit the shared memory and registers of Ampere and Hopper."""
    if dtype == torch.float32:
        small = Tiles(32, 32, 4, 1) if head_size == 128 else Tiles(64, 32, 4, 2)
        return dict.fromkeys(("context", "keys", "queries"), small)
    if head_size == 128:
        return {
            "context": Tiles(128, 64, 8, 2),
            "keys": Tiles(64, 64, 8, 1),
            "queries": Tiles(64, 64, 8, 2),
        }
    return {
        "context": Tiles(128, 64, 8, 3),
        "keys": Tiles(128, 64, 8, 2),
        "queries": Tiles(128, 32, 8, 2),
    }


@triton.jit
def _product(a, b, total, PRECISION: tl.constexpr):
    """a · b, [M, K] and [K, N], in float32, added to `total` where there is one."""
    if WIDENED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def _text(text, cu_seqlens_ptr, queries, keys, PACKED: tl.constexpr):
    """Batch row, first token, and lengths of a text."""
    row = text.to(tl.int64)
    first = row * 0
    if PACKED:
        first = tl.load(cu_seqlens_ptr + text).to(tl.int64)
        queries = (tl.load(cu_seqlens_ptr + text + 1) - first).to(tl.int32)
        keys = queries
        row = row * 0
    return row, first, queries, keys


@triton.jit
def _load(pointer, stride, first, count, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Rows first … first + ROWS - 1 of `count`, zeros behind them: [ROWS, WIDTH]."""
    rows = first + tl.arange(0, ROWS)
    columns = tl.arange(0, WIDTH)
    return tl.load(
        pointer + rows[:, None].to(tl.int64) * stride + columns[None, :],
        mask=(rows < count)[:, None],
        other=0.0,
    )


@triton.jit
def _store(pointer, stride, first, count, x, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    rows = first + tl.arange(0, ROWS)
    columns = tl.arange(0, WIDTH)
    tl.store(
        pointer + rows[:, None].to(tl.int64) * stride + columns[None, :],
        x.to(pointer.dtype.element_ty),
        mask=(rows < count)[:, None],
    )


@triton.jit
def _whole(pointer, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """A matrix of exactly this shape."""
    return tl.load(pointer + tl.arange(0, ROWS)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :])


@triton.jit
def _turned(x, position, factors_ptr, turns_ptr, ROWS, D: tl.constexpr, R: tl.constexpr,
            PRECISION: tl.constexpr):  # fmt: skip
    """M x turned by its row's angle, so that a product with key waves gives the position term."""
    sine = _product(x, tl.trans(_whole(factors_ptr, R, D)), None, PRECISION)
    cosine = _product(x, tl.trans(_whole(factors_ptr + R * D, R, D)), None, PRECISION)
    sin_i, cos_i = _angles(position, turns_ptr, ROWS, R)
    return sine * cos_i + cosine * sin_i, cosine * cos_i - sine * sin_i


@triton.jit
def _turned_back(sine, cosine, position, factors_ptr, turns_ptr, ROWS, D: tl.constexpr,
                 R: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """The transpose of `_turned`: sums of key waves become sums of table rows, [ROWS, D]."""
    sin_i, cos_i = _angles(position, turns_ptr, ROWS, R)
    upper = _whole(factors_ptr, R, D)
    lower = _whole(factors_ptr + R * D, R, D)
    total = _product((sine * cos_i - cosine * sin_i).to(upper.dtype), upper, None, PRECISION)
    return _product((cosine * cos_i + sine * sin_i).to(lower.dtype), lower, total, PRECISION)


@triton.jit
def _angles(position, turns_ptr, ROWS: tl.constexpr, R: tl.constexpr):
    """Sine and cosine of a row's position times each frequency, [ROWS, R] float32."""
    at = turns_ptr + (position + tl.arange(0, ROWS))[:, None] * (2 * R) + tl.arange(0, R)[None, :]
    return tl.load(at), tl.load(at + R)


@triton.jit
def _end(x, ends_ptr, which: tl.constexpr, D: tl.constexpr):
    """x · (the table's first or last row), [ROWS] float32."""
    row = tl.load(ends_ptr + which * D + tl.arange(0, D)).to(tl.float32)
    return tl.sum(x.to(tl.float32) * row[None, :], 1)


@triton.jit
def _waves(waves_ptr, first, count, KEYS: tl.constexpr, R: tl.constexpr):
    """sin(j·f) and cos(j·f) of the keys of a tile, each [KEYS, R]."""
    sine = _load(waves_ptr, 2 * R, first, count, KEYS, R)
    cosine = _load(waves_ptr + R, 2 * R, first, count, KEYS, R)
    return sine, cosine


@triton.jit
def _by_distance(products, on_left, on_right, distance, clip):
    """The position term in a tile of the band, which may reach over its edges."""
    beyond = tl.where(distance < 0, on_left[:, None], on_right[:, None])
    return tl.where((distance <= clip) & (distance >= -clip), products, beyond)


@triton.jit
def _kept(seed, row, head, first_row, first_key, drop_below, QUERIES: tl.constexpr,
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
def _exponents(q, k, turned_sine, turned_cosine, on_left, on_right, sine, cosine, bias_ptr,
               first_row, first_key, keys, offset, clip, scale, SIDE: tl.constexpr,
               BIASED: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
               PRECISION: tl.constexpr):  # fmt: skip
    """Scores of a tile in powers of two, -inf behind the last key; SIDE: -1 left, 0 band, 1 right.

    `scale` is log2(e) over the root of the head size.
    """
    columns = first_key + tl.arange(0, KEYS)
    scores = _product(q, tl.trans(k), None, PRECISION)
    if SIDE == 0:
        products = _product(turned_sine, tl.trans(sine), None, PRECISION)
        products = _product(turned_cosine, tl.trans(cosine), products, PRECISION)
        rows = first_row + offset + tl.arange(0, QUERIES)
        distance = columns[None, :] - rows[:, None]
        scores += _by_distance(products, on_left, on_right, distance, clip)
    elif SIDE < 0:
        scores += on_left[:, None]
    else:
        scores += on_right[:, None]
    scores *= scale
    if BIASED:
        bias = tl.load(bias_ptr + columns, mask=columns < keys, other=0.0)
        scores += (tl.maximum(bias, LOWEST) * 1.4426950408889634)[None, :]
    return tl.where((columns < keys)[None, :], scores, float("-inf"))


@triton.jit
def _context_tiles(
    state, q, turned_sine, turned_cosine, on_left, on_right, k_ptr, k_step, v_ptr, v_step,
    bias_ptr, waves_ptr, first_row, begin, end, keys, offset, clip, scale,
    seed, row, head, dropout_row, drop_below,
    SIDE: tl.constexpr, BIASED: tl.constexpr, DROPOUT: tl.constexpr, D: tl.constexpr,
    R: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Key tiles begin … end - 1 added to the state of a query tile."""
    context, sum_sine, sum_cosine, mass_left, mass_right, total, highest = state
    for tile in range(begin, end):
        first_key = tile * KEYS
        k = _load(k_ptr, k_step, first_key, keys, KEYS, D)
        v = _load(v_ptr, v_step, first_key, keys, KEYS, D)
        sine, cosine = k, k
        if SIDE == 0:
            sine, cosine = _waves(waves_ptr, first_key, keys, KEYS, R)
        exponents = _exponents(
            q, k, turned_sine, turned_cosine, on_left, on_right, sine, cosine, bias_ptr,
            first_row, first_key, keys, offset, clip, scale, SIDE, BIASED, QUERIES, KEYS, PRECISION,
        )  # fmt: skip
        higher = tl.maximum(highest, tl.max(exponents, 1))
        shrink = tl.exp2(highest - higher)
        weights = tl.exp2(exponents - higher[:, None])
        total = total * shrink + tl.sum(weights, 1)
        highest = higher
        if DROPOUT:
            kept = _kept(seed, row, head, dropout_row, first_key, drop_below, QUERIES, KEYS)
            weights = tl.where(kept, weights, 0.0)
        context *= shrink[:, None]
        sum_sine *= shrink[:, None]
        sum_cosine *= shrink[:, None]
        mass_left *= shrink
        mass_right *= shrink
        if SIDE == 0:
            rows = first_row + offset + tl.arange(0, QUERIES)
            distance = (first_key + tl.arange(0, KEYS))[None, :] - rows[:, None]
            mass_left += tl.sum(tl.where(distance < -clip, weights, 0.0), 1)
            mass_right += tl.sum(tl.where(distance > clip, weights, 0.0), 1)
            inside = (distance <= clip) & (distance >= -clip)
            banded = tl.where(inside, weights, 0.0).to(v.dtype)
            sum_sine = _product(banded, sine, sum_sine, PRECISION)
            sum_cosine = _product(banded, cosine, sum_cosine, PRECISION)
        elif SIDE < 0:
            mass_left += tl.sum(weights, 1)
        else:
            mass_right += tl.sum(weights, 1)
        context = _product(weights.to(v.dtype), v, context, PRECISION)
    return context, sum_sine, sum_cosine, mass_left, mass_right, total, highest


@triton.jit
def _key_tile_bounds(first_row, keys, offset, clip, QUERIES: tl.constexpr, KEYS: tl.constexpr):
    """Key tiles are left of the band before the first bound, right of it from the second on."""
    tiles = tl.cdiv(keys, KEYS)
    left = tl.minimum(tl.maximum(first_row + offset - clip, 0) // KEYS, tiles)
    right = tl.cdiv(tl.maximum(first_row + offset + QUERIES + clip, 0), KEYS)
    return left, tl.minimum(tl.maximum(right, left), tiles), tiles


@triton.jit
def _query_tile_bounds(first_key, queries, offset, clip, QUERIES: tl.constexpr,
                       KEYS: tl.constexpr):  # fmt: skip
    """Query tiles have the keys right of the band before the first bound, left from the second."""
    tiles = tl.cdiv(queries, QUERIES)
    right = tl.minimum(tl.maximum(first_key - offset - clip, 0) // QUERIES, tiles)
    left = tl.cdiv(tl.maximum(first_key + KEYS - offset + clip, 0), QUERIES)
    return right, tl.minimum(tl.maximum(left, right), tiles), tiles


@triton.jit
def _context_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, bias_ptr, cu_seqlens_ptr,
    factors_ptr, ends_ptr, turns_ptr, waves_ptr,
    q_row, q_head, q_step, k_row, k_head, k_step, v_row, v_head, v_step,
    out_row, out_head, out_step, heads, queries, keys, offset, clip, scale, seed, drop_below,
    keep_scale,
    BIASED: tl.constexpr, PACKED: tl.constexpr, DROPOUT: tl.constexpr, D: tl.constexpr,
    R: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A program makes one tile of the context, and log2 of the sum of its rows' weights."""
    head = tl.program_id(0) % heads
    first_row = tl.program_id(1) * QUERIES
    lse_step = queries
    bias_step = keys
    row, first, queries, keys = _text(
        tl.program_id(0) // heads, cu_seqlens_ptr, queries, keys, PACKED
    )
    if first_row >= queries:
        return
    q_ptr += row * q_row + head * q_head + first * q_step
    q = _load(q_ptr, q_step, first_row, queries, QUERIES, D)
    sine, cosine = _turned(q, first_row + offset, factors_ptr, turns_ptr, QUERIES, D, R, PRECISION)
    sine, cosine = sine.to(q.dtype), cosine.to(q.dtype)
    on_left, on_right = _end(q, ends_ptr, 0, D), _end(q, ends_ptr, 1, D)
    k_ptr += row * k_row + head * k_head + first * k_step
    v_ptr += row * v_row + head * v_head + first * v_step
    bias_ptr += row * bias_step
    nothing = tl.zeros([QUERIES], tl.float32)
    waves = tl.zeros([QUERIES, R], tl.float32)
    state = (
        tl.zeros([QUERIES, D], tl.float32), waves, waves, nothing, nothing, nothing,
        nothing + float("-inf"),
    )  # fmt: skip
    left, right, tiles = _key_tile_bounds(first_row, keys, offset, clip, QUERIES, KEYS)
    dropout_row = first + first_row
    for side in tl.static_range(-1, 2):
        begin = 0 if side < 0 else (left if side == 0 else right)
        end = left if side < 0 else (right if side == 0 else tiles)
        state = _context_tiles(
            state, q, sine, cosine, on_left, on_right, k_ptr, k_step, v_ptr, v_step,
            bias_ptr, waves_ptr, first_row, begin, end, keys, offset, clip, scale,
            seed, row, head, dropout_row, drop_below,
            side, BIASED, DROPOUT, D, R, QUERIES, KEYS, PRECISION,
        )  # fmt: skip
    context, sum_sine, sum_cosine, mass_left, mass_right, total, highest = state
    context += _turned_back(
        sum_sine, sum_cosine, first_row + offset, factors_ptr, turns_ptr, QUERIES, D, R, PRECISION
    )
    context += _ends_by_mass(mass_left, mass_right, ends_ptr, D)
    context *= (keep_scale / total)[:, None]
    out_ptr += row * out_row + head * out_head + first * out_step
    _store(out_ptr, out_step, first_row, queries, context, QUERIES, D)
    rows = first_row + tl.arange(0, QUERIES)
    lse_ptr += (row * heads + head) * lse_step + first
    tl.store(lse_ptr + rows, highest + tl.log2(total), mask=rows < queries)


@triton.jit
def _ends_by_mass(mass_left, mass_right, ends_ptr, D: tl.constexpr):
    """What lies beyond the clip distance adds the table's first and last row by its weight."""
    columns = tl.arange(0, D)
    left = tl.load(ends_ptr + columns).to(tl.float32)
    right = tl.load(ends_ptr + D + columns).to(tl.float32)
    return mass_left[:, None] * left[None, :] + mass_right[:, None] * right[None, :]


@triton.jit
def _rows_kernel(
    q_ptr, grad_ptr, out_ptr, rows_ptr, turned_ptr, cu_seqlens_ptr,
    factors_ptr, ends_ptr, turns_ptr,
    q_row, q_head, q_step, grad_row, grad_head, grad_step, out_row, out_head, out_step,
    heads, queries, offset, PACKED: tl.constexpr, D: tl.constexpr, R: tl.constexpr,
    QUERIES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What the backward pass needs of each query.

    rows [5, B·heads·Q]: q·ends (2), gradient·ends (2), gradient·context. turned [B·heads·Q, 4R]:
    q and the gradient, turned.
    """
    head = tl.program_id(0) % heads
    first_row = tl.program_id(1) * QUERIES
    all_queries = queries
    all_rows = tl.num_programs(0).to(tl.int64) * queries
    row, first, queries, _ = _text(
        tl.program_id(0) // heads, cu_seqlens_ptr, queries, queries, PACKED
    )
    if PACKED:
        all_rows = heads.to(tl.int64) * all_queries
    if first_row >= queries:
        return
    q = _load(
        q_ptr + row * q_row + head * q_head + first * q_step,
        q_step, first_row, queries, QUERIES, D,
    )  # fmt: skip
    grad = _load(
        grad_ptr + row * grad_row + head * grad_head + first * grad_step,
        grad_step, first_row, queries, QUERIES, D,
    )  # fmt: skip
    out = _load(
        out_ptr + row * out_row + head * out_head + first * out_step,
        out_step, first_row, queries, QUERIES, D,
    )  # fmt: skip
    begin = (row * heads + head) * all_queries + first
    rows = first_row + tl.arange(0, QUERIES)
    inside = rows < queries
    rows_ptr += begin + rows
    tl.store(rows_ptr, _end(q, ends_ptr, 0, D), mask=inside)
    tl.store(rows_ptr + all_rows, _end(q, ends_ptr, 1, D), mask=inside)
    tl.store(rows_ptr + 2 * all_rows, _end(grad, ends_ptr, 0, D), mask=inside)
    tl.store(rows_ptr + 3 * all_rows, _end(grad, ends_ptr, 1, D), mask=inside)
    delta = tl.sum(grad.to(tl.float32) * out.to(tl.float32), 1)
    tl.store(rows_ptr + 4 * all_rows, delta, mask=inside)
    turned_ptr += begin * (4 * R)
    position = first_row + offset
    sine, cosine = _turned(q, position, factors_ptr, turns_ptr, QUERIES, D, R, PRECISION)
    _store(turned_ptr, 4 * R, first_row, queries, sine, QUERIES, R)
    _store(turned_ptr + R, 4 * R, first_row, queries, cosine, QUERIES, R)
    sine, cosine = _turned(grad, position, factors_ptr, turns_ptr, QUERIES, D, R, PRECISION)
    _store(turned_ptr + 2 * R, 4 * R, first_row, queries, sine, QUERIES, R)
    _store(turned_ptr + 3 * R, 4 * R, first_row, queries, cosine, QUERIES, R)


@triton.jit
def _slopes(
    q, grad, k, v, sine, cosine, turned_ptr, rows_ptr, all_rows, lse_ptr, bias_ptr,
    first_row, first_key, queries, keys, offset, clip, scale, seed, row, head, dropout_row,
    drop_below, keep_scale,
    SIDE: tl.constexpr, BIASED: tl.constexpr, DROPOUT: tl.constexpr, R: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile's dropped weights and the gradients of its scores, both [QUERIES, KEYS] float32."""
    rows = first_row + tl.arange(0, QUERIES)
    inside = rows < queries
    on_left = tl.load(rows_ptr + rows, mask=inside, other=0.0)
    on_right = tl.load(rows_ptr + all_rows + rows, mask=inside, other=0.0)
    grad_left = tl.load(rows_ptr + 2 * all_rows + rows, mask=inside, other=0.0)
    grad_right = tl.load(rows_ptr + 3 * all_rows + rows, mask=inside, other=0.0)
    delta = tl.load(rows_ptr + 4 * all_rows + rows, mask=inside, other=0.0)
    lse = tl.load(lse_ptr + rows, mask=inside, other=float("inf"))
    turned_sine, turned_cosine, grad_sine, grad_cosine = q, q, q, q
    if SIDE == 0:
        turned_sine = _load(turned_ptr, 4 * R, first_row, queries, QUERIES, R)
        turned_cosine = _load(turned_ptr + R, 4 * R, first_row, queries, QUERIES, R)
        grad_sine = _load(turned_ptr + 2 * R, 4 * R, first_row, queries, QUERIES, R)
        grad_cosine = _load(turned_ptr + 3 * R, 4 * R, first_row, queries, QUERIES, R)
    exponents = _exponents(
        q, k, turned_sine, turned_cosine, on_left, on_right, sine, cosine, bias_ptr,
        first_row, first_key, keys, offset, clip, scale, SIDE, BIASED, QUERIES, KEYS, PRECISION,
    )  # fmt: skip
    weights = tl.exp2(exponents - lse[:, None])
    slopes = _product(grad, tl.trans(v), None, PRECISION)
    if SIDE == 0:
        products = _product(grad_sine, tl.trans(sine), None, PRECISION)
        products = _product(grad_cosine, tl.trans(cosine), products, PRECISION)
        distance = (first_key + tl.arange(0, KEYS))[None, :] - (rows + offset)[:, None]
        slopes += _by_distance(products, grad_left, grad_right, distance, clip)
    elif SIDE < 0:
        slopes += grad_left[:, None]
    else:
        slopes += grad_right[:, None]
    dropped = weights
    if DROPOUT:
        kept = _kept(seed, row, head, dropout_row + first_row, first_key, drop_below, QUERIES, KEYS)
        dropped = tl.where(kept, weights * keep_scale, 0.0)
        slopes = tl.where(kept, slopes * keep_scale, 0.0)
    return dropped, weights * (slopes - delta[:, None])


@triton.jit
def _keys_kernel(
    q_ptr, k_ptr, v_ptr, grad_ptr, dk_ptr, dv_ptr, lse_ptr, rows_ptr, turned_ptr, bias_ptr,
    cu_seqlens_ptr, waves_ptr,
    q_row, q_head, q_step, k_row, k_head, k_step, v_row, v_head, v_step,
    grad_row, grad_head, grad_step, dk_row, dk_head, dk_step, dv_row, dv_head, dv_step,
    heads, queries, keys, offset, clip, scale, inner_scale, seed, drop_below, keep_scale,
    BIASED: tl.constexpr, PACKED: tl.constexpr, DROPOUT: tl.constexpr, D: tl.constexpr,
    R: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A program makes the gradients of one tile of keys and values."""
    head = tl.program_id(0) % heads
    first_key = tl.program_id(1) * KEYS
    all_queries, bias_step = queries, keys
    all_rows = tl.num_programs(0).to(tl.int64) * queries
    if PACKED:
        all_rows = heads.to(tl.int64) * all_queries
    row, first, queries, keys = _text(
        tl.program_id(0) // heads, cu_seqlens_ptr, queries, keys, PACKED
    )
    if first_key >= keys:
        return
    begin = (row * heads + head) * all_queries + first
    q_ptr += row * q_row + head * q_head + first * q_step
    grad_ptr += row * grad_row + head * grad_head + first * grad_step
    k = _load(
        k_ptr + row * k_row + head * k_head + first * k_step, k_step, first_key, keys, KEYS, D
    )
    v = _load(
        v_ptr + row * v_row + head * v_head + first * v_step, v_step, first_key, keys, KEYS, D
    )
    sine, cosine = _waves(waves_ptr, first_key, keys, KEYS, R)
    bias_ptr += row * bias_step
    dk = tl.zeros([KEYS, D], tl.float32)
    dv = tl.zeros([KEYS, D], tl.float32)
    right, left, tiles = _query_tile_bounds(first_key, queries, offset, clip, QUERIES, KEYS)
    for turn in tl.static_range(3):
        begin_tile = 0 if turn == 0 else (right if turn == 1 else left)
        end_tile = right if turn == 0 else (left if turn == 1 else tiles)
        for tile in range(begin_tile, end_tile):
            first_row = tile * QUERIES
            q = _load(q_ptr, q_step, first_row, queries, QUERIES, D)
            grad = _load(grad_ptr, grad_step, first_row, queries, QUERIES, D)
            dropped, slopes = _slopes(
                q, grad, k, v, sine, cosine, turned_ptr + begin * (4 * R), rows_ptr + begin,
                all_rows, lse_ptr + begin, bias_ptr, first_row, first_key, queries, keys, offset,
                clip, scale, seed, row, head, first, drop_below, keep_scale,
                1 - turn, BIASED, DROPOUT, R, QUERIES, KEYS, PRECISION,
            )  # fmt: skip
            dv = _product(tl.trans(dropped.to(grad.dtype)), grad, dv, PRECISION)
            dk = _product(tl.trans(slopes.to(q.dtype)), q, dk, PRECISION)
    dk_ptr += row * dk_row + head * dk_head + first * dk_step
    dv_ptr += row * dv_row + head * dv_head + first * dv_step
    _store(dk_ptr, dk_step, first_key, keys, dk * inner_scale, KEYS, D)
    _store(dv_ptr, dv_step, first_key, keys, dv, KEYS, D)


@triton.jit
def _queries_kernel(
    q_ptr, k_ptr, v_ptr, grad_ptr, dq_ptr, lse_ptr, rows_ptr, turned_ptr, bias_ptr,
    cu_seqlens_ptr, factors_ptr, ends_ptr, turns_ptr, waves_ptr,
    q_row, q_head, q_step, k_row, k_head, k_step, v_row, v_head, v_step,
    grad_row, grad_head, grad_step, dq_row, dq_head, dq_step,
    heads, queries, keys, offset, clip, scale, inner_scale, seed, drop_below, keep_scale,
    BIASED: tl.constexpr, PACKED: tl.constexpr, DROPOUT: tl.constexpr, D: tl.constexpr,
    R: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A program makes the gradient of one tile of queries."""
    head = tl.program_id(0) % heads
    first_row = tl.program_id(1) * QUERIES
    all_queries, bias_step = queries, keys
    all_rows = tl.num_programs(0).to(tl.int64) * queries
    if PACKED:
        all_rows = heads.to(tl.int64) * all_queries
    row, first, queries, keys = _text(
        tl.program_id(0) // heads, cu_seqlens_ptr, queries, keys, PACKED
    )
    if first_row >= queries:
        return
    begin = (row * heads + head) * all_queries + first
    q_ptr += row * q_row + head * q_head + first * q_step
    grad_ptr += row * grad_row + head * grad_head + first * grad_step
    q = _load(q_ptr, q_step, first_row, queries, QUERIES, D)
    grad = _load(grad_ptr, grad_step, first_row, queries, QUERIES, D)
    k_ptr += row * k_row + head * k_head + first * k_step
    v_ptr += row * v_row + head * v_head + first * v_step
    bias_ptr += row * bias_step
    dq = tl.zeros([QUERIES, D], tl.float32)
    sum_sine = tl.zeros([QUERIES, R], tl.float32)
    sum_cosine = tl.zeros([QUERIES, R], tl.float32)
    on_left = tl.zeros([QUERIES], tl.float32)
    on_right = tl.zeros([QUERIES], tl.float32)
    left, right, tiles = _key_tile_bounds(first_row, keys, offset, clip, QUERIES, KEYS)
    for side in tl.static_range(-1, 2):
        begin_tile = 0 if side < 0 else (left if side == 0 else right)
        end_tile = left if side < 0 else (right if side == 0 else tiles)
        for tile in range(begin_tile, end_tile):
            first_key = tile * KEYS
            k = _load(k_ptr, k_step, first_key, keys, KEYS, D)
            v = _load(v_ptr, v_step, first_key, keys, KEYS, D)
            sine, cosine = k, k
            if side == 0:
                sine, cosine = _waves(waves_ptr, first_key, keys, KEYS, R)
            _, slopes = _slopes(
                q, grad, k, v, sine, cosine, turned_ptr + begin * (4 * R), rows_ptr + begin,
                all_rows, lse_ptr + begin, bias_ptr, first_row, first_key, queries, keys, offset,
                clip, scale, seed, row, head, first, drop_below, keep_scale,
                side, BIASED, DROPOUT, R, QUERIES, KEYS, PRECISION,
            )  # fmt: skip
            dq = _product(slopes.to(k.dtype), k, dq, PRECISION)
            if side == 0:
                rows = first_row + offset + tl.arange(0, QUERIES)
                distance = (first_key + tl.arange(0, KEYS))[None, :] - rows[:, None]
                on_left += tl.sum(tl.where(distance < -clip, slopes, 0.0), 1)
                on_right += tl.sum(tl.where(distance > clip, slopes, 0.0), 1)
                inside = (distance <= clip) & (distance >= -clip)
                banded = tl.where(inside, slopes, 0.0).to(k.dtype)
                sum_sine = _product(banded, sine, sum_sine, PRECISION)
                sum_cosine = _product(banded, cosine, sum_cosine, PRECISION)
            elif side < 0:
                on_left += tl.sum(slopes, 1)
            else:
                on_right += tl.sum(slopes, 1)
    dq += _turned_back(
        sum_sine, sum_cosine, first_row + offset, factors_ptr, turns_ptr, QUERIES, D, R, PRECISION
    )
    dq += _ends_by_mass(on_left, on_right, ends_ptr, D)
    dq_ptr += row * dq_row + head * dq_head + first * dq_step
    _store(dq_ptr, dq_step, first_row, queries, dq * inner_scale, QUERIES, D)


class _Tables(NamedTuple):
    """The table's factors for the kernels; L positions, R frequencies, head size D."""

    factors: Tensor
    """[2R, D]"""
    ends: Tensor
    """[2, D] float32"""
    turns: Tensor
    """[L, 2R] float32, sines and cosines of positions"""
    waves: Tensor
    """[L, 2R] the same in the type of the operands"""


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _tables(
    head_size: int, clip: int, length: int, dtype: torch.dtype, device: torch.device
) -> _Tables:
    found = table_factors(head_size, clip)
    factors = torch.from_numpy(found.sine), torch.from_numpy(found.cosine)
    angles = torch.arange(length).double()[:, None] * torch.from_numpy(found.frequencies)
    turns = torch.cat([angles.sin(), angles.cos()], 1)
    return _Tables(
        torch.cat(factors).to(device, dtype),
        torch.from_numpy(found.ends).to(device, torch.float32),
        turns.to(device, torch.float32),
        turns.to(device, dtype),
    )


class _Call(NamedTuple):
    """What forward and backward of one call share."""

    texts: int
    queries: int
    """Of the longest text"""
    keys: int
    offset: int
    clip: int
    packed: bool
    dropout: float
    seed: int

    def launch(self, kernel: Any, tiles: Tiles, by_keys: bool, arguments: list, q: Tensor,
               **constants: Any) -> None:  # fmt: skip
        """Run a kernel, a program for each text, head and tile."""
        longest, height = (self.keys, tiles.keys) if by_keys else (self.queries, tiles.queries)
        exact = q.dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
        if q.device.type == "cuda":
            constants |= {"num_warps": tiles.warps, "num_stages": tiles.stages}
        with torch.cuda.device_of(q):
            kernel[self.texts * q.shape[1], triton.cdiv(longest, height)](
                *arguments,
                PACKED=self.packed,
                D=q.shape[3],
                QUERIES=tiles.queries,
                PRECISION="ieee" if exact else "tf32",
                **constants,
            )

    def tables(self, q: Tensor) -> _Tables:
        # Tiles may reach past the last query.
        reach = max(self.offset + self.queries, self.keys) + 128
        length = triton.next_power_of_2(reach)
        return _tables(q.shape[3], self.clip, length, q.dtype, q.device)

    def sizes(self, q: Tensor, k: Tensor, inner: bool = False) -> list:
        """Numbers that the kernels of attention take."""
        scale = q.shape[3] ** -0.5
        below = drop_below(self.dropout)
        return [
            *(q.shape[1], q.shape[2], k.shape[2], self.offset, self.clip, scale * LOG2E),
            *([scale] if inner else []),
            *(self.seed, below, LEVELS / (LEVELS - below)),
        ]


def drop_below(rate: float) -> int:
    """Of the LEVELS of a random byte, how many drop an element."""
    return round(rate * LEVELS)


class FlashAttention(torch.autograd.Function):
    """The kernels as one differentiable function; only operands, context and a row sum are kept."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor | None,
        cu_seqlens: Tensor | None,
        call: _Call,
    ) -> Tensor:
        q, k, v = (_unit_stride(x) for x in (q, k, v))
        out = _like(q)
        lse = q.new_empty(q.shape[:3], dtype=torch.float32)
        tables = call.tables(q)
        tiles = _tiles(q.shape[3], q.dtype)["context"]
        call.launch(
            _context_kernel,
            tiles,
            False,
            [
                *(q, k, v, out, lse, _given(bias, lse), _given(cu_seqlens, lse)),
                *(tables.factors, tables.ends, tables.turns, tables.waves),
                *_steps(q, k, v, out),
                *call.sizes(q, k),
            ],
            q,
            BIASED=bias is not None,
            DROPOUT=drop_below(call.dropout) > 0,
            R=tables.waves.shape[1] // 2,
            KEYS=tiles.keys,
        )
        ctx.save_for_backward(q, k, v, out, lse, bias, cu_seqlens)
        ctx.call = call
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse, bias, cu_seqlens = ctx.saved_tensors
        call: _Call = ctx.call
        grad = _unit_stride(grad)
        tables = call.tables(q)
        width = tables.waves.shape[1] // 2
        rows = lse.new_empty(5, lse.numel())
        turned = q.new_empty(lse.numel(), 4 * width)
        texts = _given(cu_seqlens, lse)
        by_kernel = _tiles(q.shape[3], q.dtype)
        call.launch(
            _rows_kernel,
            by_kernel["queries"],
            False,
            [
                *(q, grad, out, rows, turned, texts, tables.factors, tables.ends, tables.turns),
                *_steps(q, grad, out),
                *(q.shape[1], q.shape[2], call.offset),
            ],
            q,
            R=width,
        )
        dq, dk, dv = (_like(x) for x in (q, k, v))
        flags = {
            "BIASED": bias is not None,
            "DROPOUT": drop_below(call.dropout) > 0,
            "R": width,
        }
        shared = [lse, rows, turned, _given(bias, lse), texts]
        call.launch(
            _keys_kernel,
            by_kernel["keys"],
            True,
            [
                *(q, k, v, grad, dk, dv, *shared, tables.waves),
                *_steps(q, k, v, grad, dk, dv),
                *call.sizes(q, k, inner=True),
            ],
            q,
            KEYS=by_kernel["keys"].keys,
            **flags,
        )
        call.launch(
            _queries_kernel,
            by_kernel["queries"],
            False,
            [
                *(q, k, v, grad, dq, *shared),
                *(tables.factors, tables.ends, tables.turns, tables.waves),
                *_steps(q, k, v, grad, dq),
                *call.sizes(q, k, inner=True),
            ],
            q,
            KEYS=by_kernel["queries"].keys,
            **flags,
        )
        return dq, dk, dv, None, None, None


def _unit_stride(x: Tensor) -> Tensor:
    return x if x.stride(3) == 1 else x.contiguous()


def _like(x: Tensor) -> Tensor:
    """[B, heads, S, d] with the heads of a token side by side in memory, as projections take it."""
    batch, heads, length, width = x.shape
    return x.new_empty(batch, length, heads, width).transpose(1, 2)


def _given(x: Tensor | None, instead: Tensor) -> Tensor:
    """A pointer that is never followed where there is none."""
    return instead if x is None else x


def _steps(*tensors: Tensor) -> list[int]:
    return [step for x in tensors for step in x.stride()[:3]]


def why_not(q: Tensor, dropout: float) -> str:
    """What the kernels can't do with these operands; empty where they can."""
    if q.device.type != "cuda" and not INTERPRETED:
        return f"it runs on GPUs, not on a {q.device.type}"
    if q.shape[3] not in HEAD_SIZES:
        return f"it has head sizes {HEAD_SIZES}, not {q.shape[3]}"
    if q.dtype not in DTYPES:
        return f"it has no {q.dtype}"
    if drop_below(dropout) >= LEVELS:
        return f"it can't drop out {dropout:.0%}"
    return ""


@torch.compiler.disable
def flash_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    bias: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    longest: int | None = None,
    dropout: float = 0.0,
    offset: int = 0,
) -> Tensor:
    """Context [B, heads, Q, d] of `relative_attention.eager_attention`.

    Args:
        q: [B, heads, Q, d]; k, v [B, heads, K, d]; float32, float16 or bfloat16.
        table: [2k + 1, d] `position_table(d, k)`, of which only the shape is read.
        bias: float32 [B, K] added to the scores of all queries, or None.
        cu_seqlens: int32 [N + 1]; with it B is 1, Q = K, and tokens cu_seqlens[n] to
            cu_seqlens[n + 1] are a text of its own.
        longest: tokens of the longest such text at most.
        dropout: share of the weights to drop, rounded to a 256th.
        offset: position of the first query.

    Raises:
        ValueError: see `why_not`.
    """
    if reason := why_not(q, dropout):
        raise ValueError(f"flash attention can't: {reason}; attn_implementation='sdpa' finds a way")
    call = _Call(
        texts=q.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1,
        queries=q.shape[2] if longest is None else longest,
        keys=k.shape[2] if longest is None else longest,
        offset=offset,
        clip=table.shape[0] // 2,
        packed=cu_seqlens is not None,
        dropout=dropout,
        seed=new_seed() if dropout else 0,
    )
    return FlashAttention.apply(q, k, v, bias, cu_seqlens, call)
