"""The forward kernel of relative attention; see `triton_attention.py`."""

try:
    import triton
    import triton.language as tl
except ImportError:
    # transformers requires every package that a model's code imports outside of a `try`.
    raise

from .triton_tiles import (
    add_by_position,
    dot_end,
    kept_by_dropout,
    key_tiles,
    load_matrix,
    load_rows,
    no_sums,
    position_vectors,
    product,
    scores_of,
    sequence_and_head,
    store_rows,
    tile_at,
    turned,
)


@triton.jit
def context_tiles(
    state, span, q, turned_q, on_left, on_right, k_ptr, k_step, v_ptr, v_step, bias_ptr, waves_ptr,
    first_row, position, keys, clip, scale, seed, sequence, head, drop_below,
    EDGE: tl.constexpr, ONE_EDGE: tl.constexpr, BIASED: tl.constexpr, DROPOUT: tl.constexpr,
    D: tl.constexpr, W: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Add the key tiles of a span to the state of a query tile."""
    context, sums, total, highest = state
    for turn in range(0, span[3]):
        tile, on_the_left = tile_at(turn, span)
        first_key = tile * KEYS
        k = load_rows(k_ptr, k_step, first_key, keys, KEYS, D)
        v = load_rows(v_ptr, v_step, first_key, keys, KEYS, D)
        waves = k
        if EDGE:
            waves = load_matrix(waves_ptr + first_key * W, KEYS, W)
        scores, factor = scores_of(
            q, k, turned_q, on_left, on_right, waves, bias_ptr, position, first_key, keys,
            clip, scale, EDGE, ONE_EDGE, EDGE, BIASED, QUERIES, KEYS, PRECISION,
        )  # fmt: skip
        beyond = tl.zeros([QUERIES], tl.float32)
        if not EDGE:
            beyond = tl.where(on_the_left, on_left, on_right) * scale
        higher = tl.maximum(highest, tl.max(scores, 1) * factor + beyond)
        shrink = tl.exp2(highest - higher)
        weights = tl.exp2(tl.fma(scores, factor, (beyond - higher)[:, None]))
        total = total * shrink + tl.sum(weights, 1)
        highest = higher
        if DROPOUT:
            kept = kept_by_dropout(
                seed, sequence, head, first_row, first_key, drop_below, QUERIES, KEYS
            )
            weights = tl.where(kept, weights, 0.0)
        by_wave, left, right = sums
        if EDGE:
            by_wave *= shrink[:, None]
        sums = add_by_position(
            (by_wave, left * shrink, right * shrink), weights, waves, on_the_left,
            position, first_key, clip, EDGE, ONE_EDGE, QUERIES, KEYS, PRECISION,
        )  # fmt: skip
        context = product(weights.to(v.dtype), v, context * shrink[:, None], PRECISION)
    return context, sums, total, highest


@triton.jit(do_not_specialize=["seed"])
def context_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, bias_ptr, cu_seqlens_ptr,
    factors_ptr, ends_ptr, turns_ptr, waves_ptr,
    q_row, q_head, q_step, k_row, k_head, k_step, v_row, v_head, v_step,
    out_row, out_head, out_step, heads, queries, keys, offset, clip, scale, seed, drop_below,
    keep_scale,
    BIASED: tl.constexpr, PACKED: tl.constexpr, DROPOUT: tl.constexpr, ONE_EDGE: tl.constexpr,
    D: tl.constexpr, W: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """A program computes one tile of the context, and log2 of the sum of the weights of each row.

    lse [B·heads·Q, 2] holds it in two parts, the highest exponent and the rest: where a sequence is
    masked throughout, the rest would be lost in the rounding of the sum.
    """
    first_row = tl.program_id(1) * QUERIES
    bias_step = keys
    row, head, first, begin, queries, keys = sequence_and_head(
        heads, cu_seqlens_ptr, queries, keys, PACKED
    )
    if first_row >= queries:
        return
    position = first_row + offset
    q_ptr += row * q_row + head * q_head + first * q_step
    q = load_rows(q_ptr, q_step, first_row, queries, QUERIES, D)
    turned_q = turned(q, position, factors_ptr, turns_ptr, QUERIES, D, W, PRECISION).to(q.dtype)
    on_left, on_right = dot_end(q, ends_ptr, 0, D), dot_end(q, ends_ptr, 1, D)
    k_ptr += row * k_row + head * k_head + first * k_step
    v_ptr += row * v_row + head * v_head + first * v_step
    bias_ptr += row * bias_step
    highest = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    state = tl.zeros([QUERIES, D], tl.float32), no_sums(QUERIES, W), total, highest
    beside, at_edges = key_tiles(position, keys, clip, QUERIES, KEYS)
    sequence = (row + first).to(tl.int32)
    for edge in tl.static_range(2):
        span = at_edges if edge else beside
        state = context_tiles(
            state, span, q, turned_q, on_left, on_right, k_ptr, k_step, v_ptr, v_step, bias_ptr,
            waves_ptr, first_row, position, keys, clip, scale, seed, sequence, head, drop_below,
            edge == 1, ONE_EDGE, BIASED, DROPOUT, D, W, QUERIES, KEYS, PRECISION,
        )  # fmt: skip
    context, sums, total, highest = state
    context += position_vectors(
        sums, position, factors_ptr, ends_ptr, turns_ptr, QUERIES, D, W, PRECISION
    )
    context *= (keep_scale / total)[:, None]
    out_ptr += row * out_row + head * out_head + first * out_step
    store_rows(out_ptr, out_step, first_row, queries, context, QUERIES, D)
    rows = first_row + tl.arange(0, QUERIES)
    lse_ptr += (begin + rows) * 2
    tl.store(lse_ptr, highest, mask=rows < queries)
    tl.store(lse_ptr + 1, tl.log2(total), mask=rows < queries)
