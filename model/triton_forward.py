"""The forward kernel of relative attention; see `triton_attention.py`."""

try:
    import triton
    import triton.language as tl
except ImportError:
    # transformers demands every import of a model's code that stands outside of a `try`.
    raise

from .triton_tiles import (
    add_by_position,
    dot_end,
    exponents_of,
    kept_by_dropout,
    key_tile_bounds,
    key_waves,
    load_rows,
    no_sums,
    position_vectors,
    product,
    store_rows,
    text_and_head,
    turned,
)


@triton.jit
def context_tiles(
    state, q, turned_sine, turned_cosine, on_left, on_right, k_ptr, k_step, v_ptr, v_step,
    bias_ptr, waves_ptr, first_row, begin, end, keys, offset, clip, scale,
    seed, row, head, dropout_row, drop_below,
    SIDE: tl.constexpr, BIASED: tl.constexpr, DROPOUT: tl.constexpr, D: tl.constexpr,
    R: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Key tiles begin … end - 1 added to the state of a query tile."""
    context, sums, total, highest = state
    for tile in range(begin, end):
        first_key = tile * KEYS
        k = load_rows(k_ptr, k_step, first_key, keys, KEYS, D)
        v = load_rows(v_ptr, v_step, first_key, keys, KEYS, D)
        sine, cosine = k, k
        if SIDE == 0:
            sine, cosine = key_waves(waves_ptr, first_key, keys, KEYS, R)
        exponents = exponents_of(
            q, k, turned_sine, turned_cosine, on_left, on_right, sine, cosine, bias_ptr,
            first_row, first_key, keys, offset, clip, scale, SIDE, BIASED, QUERIES, KEYS, PRECISION,
        )  # fmt: skip
        higher = tl.maximum(highest, tl.max(exponents, 1))
        shrink = tl.exp2(highest - higher)
        weights = tl.exp2(exponents - higher[:, None])
        total = total * shrink + tl.sum(weights, 1)
        highest = higher
        if DROPOUT:
            kept = kept_by_dropout(
                seed, row, head, dropout_row, first_key, drop_below, QUERIES, KEYS
            )
            weights = tl.where(kept, weights, 0.0)
        context *= shrink[:, None]
        sum_sine, sum_cosine, mass_left, mass_right = sums
        sum_sine *= shrink[:, None]
        sum_cosine *= shrink[:, None]
        sums = sum_sine, sum_cosine, mass_left * shrink, mass_right * shrink
        sums = add_by_position(
            sums, weights, sine, cosine, first_row, first_key, offset, clip,
            SIDE, QUERIES, KEYS, PRECISION,
        )  # fmt: skip
        context = product(weights.to(v.dtype), v, context, PRECISION)
    return context, sums, total, highest


@triton.jit(do_not_specialize=["seed"])
def context_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, bias_ptr, cu_seqlens_ptr,
    factors_ptr, ends_ptr, turns_ptr, waves_ptr,
    q_row, q_head, q_step, k_row, k_head, k_step, v_row, v_head, v_step,
    out_row, out_head, out_step, heads, queries, keys, offset, clip, scale, seed, drop_below,
    keep_scale,
    BIASED: tl.constexpr, PACKED: tl.constexpr, DROPOUT: tl.constexpr, D: tl.constexpr,
    R: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A program makes one tile of the context, and log2 of the sum of its rows' weights.

    lse [B·heads·Q, 2] holds it in two parts, the highest exponent and the rest: in a text that is
    masked throughout, the first would swallow the second.
    """
    first_row = tl.program_id(1) * QUERIES
    bias_step = keys
    row, head, first, begin, queries, keys = text_and_head(
        heads, cu_seqlens_ptr, queries, keys, PACKED
    )
    if first_row >= queries:
        return
    q_ptr += row * q_row + head * q_head + first * q_step
    q = load_rows(q_ptr, q_step, first_row, queries, QUERIES, D)
    sine, cosine = turned(q, first_row + offset, factors_ptr, turns_ptr, QUERIES, D, R, PRECISION)
    sine, cosine = sine.to(q.dtype), cosine.to(q.dtype)
    on_left, on_right = dot_end(q, ends_ptr, 0, D), dot_end(q, ends_ptr, 1, D)
    k_ptr += row * k_row + head * k_head + first * k_step
    v_ptr += row * v_row + head * v_head + first * v_step
    bias_ptr += row * bias_step
    highest = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    state = tl.zeros([QUERIES, D], tl.float32), no_sums(QUERIES, R), total, highest
    left, right, tiles = key_tile_bounds(first_row, keys, offset, clip, QUERIES, KEYS)
    dropout_row = first + first_row
    for side in tl.static_range(-1, 2):
        begin_tile = 0 if side < 0 else (left if side == 0 else right)
        end_tile = left if side < 0 else (right if side == 0 else tiles)
        state = context_tiles(
            state, q, sine, cosine, on_left, on_right, k_ptr, k_step, v_ptr, v_step,
            bias_ptr, waves_ptr, first_row, begin_tile, end_tile, keys, offset, clip, scale,
            seed, row, head, dropout_row, drop_below,
            side, BIASED, DROPOUT, D, R, QUERIES, KEYS, PRECISION,
        )  # fmt: skip
    context, sums, total, highest = state
    context += position_vectors(
        sums, first_row + offset, factors_ptr, ends_ptr, turns_ptr, QUERIES, D, R, PRECISION
    )
    context *= (keep_scale / total)[:, None]
    out_ptr += row * out_row + head * out_head + first * out_step
    store_rows(out_ptr, out_step, first_row, queries, context, QUERIES, D)
    rows = first_row + tl.arange(0, QUERIES)
    lse_ptr += (begin + rows) * 2
    tl.store(lse_ptr, highest, mask=rows < queries)
    tl.store(lse_ptr + 1, tl.log2(total), mask=rows < queries)
