"""The backward kernels of relative attention; see `triton_attention.py`."""

try:
    import triton
    import triton.language as tl
except ImportError:
    # transformers requires every package that a model's code imports outside of a `try`.
    raise

from .triton_tiles import (
    LOG2E,
    ROW_FIGURES,
    add_by_position,
    by_distance,
    dot_end,
    kept_by_dropout,
    key_tiles,
    load_matrix,
    load_rows,
    no_sums,
    position_vectors,
    product,
    query_tiles,
    scores_of,
    sequence_and_head,
    store_rows,
    tile_at,
    turned,
)


@triton.jit
def rows_kernel(
    q_ptr, grad_ptr, out_ptr, rows_ptr, turned_ptr, cu_seqlens_ptr,
    factors_ptr, ends_ptr, turns_ptr,
    q_row, q_head, q_step, grad_row, grad_head, grad_step, out_row, out_head, out_step,
    heads, queries, offset, keep_scale, PACKED: tl.constexpr, D: tl.constexpr, W: tl.constexpr,
    QUERIES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The numbers of each query that the backward pass needs.

    rows [B·heads·Q, ROW_FIGURES]: q·ends (2), gradient·ends (2), gradient·context over keep_scale.
    turned [B·heads·Q, 2W]: q and the gradient, turned.
    """
    first_row = tl.program_id(1) * QUERIES
    row, head, first, begin, queries, _ = sequence_and_head(
        heads, cu_seqlens_ptr, queries, queries, PACKED
    )
    if first_row >= queries:
        return
    q = load_rows(
        q_ptr + row * q_row + head * q_head + first * q_step,
        q_step, first_row, queries, QUERIES, D,
    )  # fmt: skip
    grad = load_rows(
        grad_ptr + row * grad_row + head * grad_head + first * grad_step,
        grad_step, first_row, queries, QUERIES, D,
    )  # fmt: skip
    out = load_rows(
        out_ptr + row * out_row + head * out_head + first * out_step,
        out_step, first_row, queries, QUERIES, D,
    )  # fmt: skip
    rows = first_row + tl.arange(0, QUERIES)
    inside = rows < queries
    rows_ptr += (begin + rows) * ROW_FIGURES
    tl.store(rows_ptr, dot_end(q, ends_ptr, 0, D), mask=inside)
    tl.store(rows_ptr + 1, dot_end(q, ends_ptr, 1, D), mask=inside)
    tl.store(rows_ptr + 2, dot_end(grad, ends_ptr, 0, D), mask=inside)
    tl.store(rows_ptr + 3, dot_end(grad, ends_ptr, 1, D), mask=inside)
    delta = tl.sum(grad.to(tl.float32) * out.to(tl.float32), 1) / keep_scale
    tl.store(rows_ptr + 4, delta, mask=inside)
    turned_ptr += begin * (2 * W)
    position = first_row + offset
    turned_q = turned(q, position, factors_ptr, turns_ptr, QUERIES, D, W, PRECISION)
    store_rows(turned_ptr, 2 * W, first_row, queries, turned_q, QUERIES, W)
    turned_grad = turned(grad, position, factors_ptr, turns_ptr, QUERIES, D, W, PRECISION)
    store_rows(turned_ptr + W, 2 * W, first_row, queries, turned_grad, QUERIES, W)


@triton.jit
def slopes_of(
    q, grad, k, v, waves, turned_ptr, rows_ptr, lse_ptr, bias_ptr, on_the_left,
    first_row, first_key, queries, keys, offset, clip, scale, seed, sequence, head, drop_below,
    EDGE: tl.constexpr, ONE_EDGE: tl.constexpr, MASKED: tl.constexpr, BIASED: tl.constexpr,
    DROPOUT: tl.constexpr, W: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """The weights of a tile after dropout and the gradients of its scores, [QUERIES, KEYS] float32.

    Both are divided by dropout's keep_scale.
    """
    rows = first_row + tl.arange(0, QUERIES)
    inside = rows < queries
    highest = tl.load(lse_ptr + rows * 2, mask=inside, other=float("inf"))
    log_total = tl.load(lse_ptr + rows * 2 + 1, mask=inside, other=0.0)
    rows_ptr += rows * ROW_FIGURES
    delta = tl.load(rows_ptr + 4, mask=inside, other=0.0)
    position = first_row + offset
    turned_q, slopes = q, None
    if EDGE:
        on_left = tl.load(rows_ptr, mask=inside, other=0.0)
        on_right = tl.load(rows_ptr + 1, mask=inside, other=0.0)
        grad_left = tl.load(rows_ptr + 2, mask=inside, other=0.0)
        grad_right = tl.load(rows_ptr + 3, mask=inside, other=0.0)
        turned_q = load_rows(turned_ptr, 2 * W, first_row, queries, QUERIES, W)
        turned_grad = load_rows(turned_ptr + W, 2 * W, first_row, queries, QUERIES, W)
        slopes = by_distance(
            product(turned_grad, tl.trans(waves), None, PRECISION), grad_left, grad_right,
            position, first_key, clip, ONE_EDGE, QUERIES, KEYS,
        )  # fmt: skip
        beyond = tl.zeros([QUERIES], tl.float32)
    else:
        side = tl.where(on_the_left, 0, 1)
        on_left = tl.load(rows_ptr + side, mask=inside, other=0.0)
        on_right = on_left
        beyond = on_left * scale
        lift = tl.load(rows_ptr + 2 + side, mask=inside, other=0.0)
    scores, factor = scores_of(
        q, k, turned_q, on_left, on_right, waves, bias_ptr, position, first_key, keys,
        clip, scale, EDGE, ONE_EDGE, MASKED, BIASED, QUERIES, KEYS, PRECISION,
    )  # fmt: skip
    if BIASED:
        # In this order log_total is not rounded away where a sequence is masked throughout.
        weights = tl.exp2(scores + (beyond - highest)[:, None] - log_total[:, None])
    else:
        weights = tl.exp2(tl.fma(scores, factor, (beyond - highest - log_total)[:, None]))
    slopes = product(grad, tl.trans(v), slopes, PRECISION)
    if not EDGE:
        slopes += lift[:, None]
    dropped = weights
    if DROPOUT:
        kept = kept_by_dropout(
            seed, sequence, head, first_row, first_key, drop_below, QUERIES, KEYS
        )
        dropped = tl.where(kept, weights, 0.0)
    return dropped, tl.fma(dropped, slopes, weights * -delta[:, None])


@triton.jit(do_not_specialize=["seed"])
def keys_kernel(
    q_ptr, k_ptr, v_ptr, grad_ptr, dk_ptr, dv_ptr, lse_ptr, rows_ptr, turned_ptr, bias_ptr,
    cu_seqlens_ptr, waves_ptr,
    q_row, q_head, q_step, k_row, k_head, k_step, v_row, v_head, v_step,
    grad_row, grad_head, grad_step, dk_row, dk_head, dk_step, dv_row, dv_head, dv_step,
    heads, queries, keys, offset, clip, scale, seed, drop_below, keep_scale,
    BIASED: tl.constexpr, PACKED: tl.constexpr, DROPOUT: tl.constexpr, ONE_EDGE: tl.constexpr,
    D: tl.constexpr, W: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """A program computes the gradients of one tile of keys and values."""
    first_key = tl.program_id(1) * KEYS
    bias_step = keys
    row, head, first, begin, queries, keys = sequence_and_head(
        heads, cu_seqlens_ptr, queries, keys, PACKED
    )
    if first_key >= keys:
        return
    q_ptr += row * q_row + head * q_head + first * q_step
    grad_ptr += row * grad_row + head * grad_head + first * grad_step
    k = load_rows(
        k_ptr + row * k_row + head * k_head + first * k_step, k_step, first_key, keys, KEYS, D
    )
    v = load_rows(
        v_ptr + row * v_row + head * v_head + first * v_step, v_step, first_key, keys, KEYS, D
    )
    waves = load_matrix(waves_ptr + first_key * W, KEYS, W)
    bias_ptr += row * bias_step
    lse_ptr += begin * 2
    rows_ptr += begin * ROW_FIGURES
    turned_ptr += begin * (2 * W)
    dk = tl.zeros([KEYS, D], tl.float32)
    dv = tl.zeros([KEYS, D], tl.float32)
    beside, at_edges = query_tiles(first_key - offset, queries, clip, QUERIES, KEYS)
    sequence = (row + first).to(tl.int32)
    for edge in tl.static_range(2):
        span = at_edges if edge else beside
        for turn in range(0, span[3]):
            tile, before = tile_at(turn, span)
            first_row = tile * QUERIES
            q = load_rows(q_ptr, q_step, first_row, queries, QUERIES, D)
            grad = load_rows(grad_ptr, grad_step, first_row, queries, QUERIES, D)
            # The first queries have the keys on their right. Places after the last key need no
            # mask: they only change rows that are not stored.
            dropped, slopes = slopes_of(
                q, grad, k, v, waves, turned_ptr, rows_ptr, lse_ptr, bias_ptr, not before,
                first_row, first_key, queries, keys, offset, clip, scale, seed, sequence, head,
                drop_below, edge == 1, ONE_EDGE, False, BIASED, DROPOUT, W, QUERIES, KEYS,
                PRECISION,
            )  # fmt: skip
            dv = product(tl.trans(dropped.to(grad.dtype)), grad, dv, PRECISION)
            dk = product(tl.trans(slopes.to(q.dtype)), q, dk, PRECISION)
    dk_ptr += row * dk_row + head * dk_head + first * dk_step
    dv_ptr += row * dv_row + head * dv_head + first * dv_step
    store_rows(dk_ptr, dk_step, first_key, keys, dk * (scale / LOG2E * keep_scale), KEYS, D)
    store_rows(dv_ptr, dv_step, first_key, keys, dv * keep_scale, KEYS, D)


@triton.jit(do_not_specialize=["seed"])
def queries_kernel(
    q_ptr, k_ptr, v_ptr, grad_ptr, dq_ptr, lse_ptr, rows_ptr, turned_ptr, bias_ptr,
    cu_seqlens_ptr, factors_ptr, ends_ptr, turns_ptr, waves_ptr,
    q_row, q_head, q_step, k_row, k_head, k_step, v_row, v_head, v_step,
    grad_row, grad_head, grad_step, dq_row, dq_head, dq_step,
    heads, queries, keys, offset, clip, scale, seed, drop_below, keep_scale,
    BIASED: tl.constexpr, PACKED: tl.constexpr, DROPOUT: tl.constexpr, ONE_EDGE: tl.constexpr,
    D: tl.constexpr, W: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """A program computes the gradient of one tile of queries."""
    first_row = tl.program_id(1) * QUERIES
    bias_step = keys
    row, head, first, begin, queries, keys = sequence_and_head(
        heads, cu_seqlens_ptr, queries, keys, PACKED
    )
    if first_row >= queries:
        return
    position = first_row + offset
    q_ptr += row * q_row + head * q_head + first * q_step
    grad_ptr += row * grad_row + head * grad_head + first * grad_step
    q = load_rows(q_ptr, q_step, first_row, queries, QUERIES, D)
    grad = load_rows(grad_ptr, grad_step, first_row, queries, QUERIES, D)
    k_ptr += row * k_row + head * k_head + first * k_step
    v_ptr += row * v_row + head * v_head + first * v_step
    bias_ptr += row * bias_step
    lse_ptr += begin * 2
    rows_ptr += begin * ROW_FIGURES
    turned_ptr += begin * (2 * W)
    dq = tl.zeros([QUERIES, D], tl.float32)
    sums = no_sums(QUERIES, W)
    beside, at_edges = key_tiles(position, keys, clip, QUERIES, KEYS)
    sequence = (row + first).to(tl.int32)
    for edge in tl.static_range(2):
        span = at_edges if edge else beside
        for turn in range(0, span[3]):
            tile, on_the_left = tile_at(turn, span)
            first_key = tile * KEYS
            k = load_rows(k_ptr, k_step, first_key, keys, KEYS, D)
            v = load_rows(v_ptr, v_step, first_key, keys, KEYS, D)
            waves = k
            if edge:
                waves = load_matrix(waves_ptr + first_key * W, KEYS, W)
            _, slopes = slopes_of(
                q, grad, k, v, waves, turned_ptr, rows_ptr, lse_ptr, bias_ptr, on_the_left,
                first_row, first_key, queries, keys, offset, clip, scale, seed, sequence, head,
                drop_below, edge == 1, ONE_EDGE, edge == 1, BIASED, DROPOUT, W, QUERIES, KEYS,
                PRECISION,
            )  # fmt: skip
            sums = add_by_position(
                sums, slopes, waves, on_the_left, position, first_key, clip,
                edge == 1, ONE_EDGE, QUERIES, KEYS, PRECISION,
            )  # fmt: skip
            dq = product(slopes.to(k.dtype), k, dq, PRECISION)
    dq += position_vectors(
        sums, position, factors_ptr, ends_ptr, turns_ptr, QUERIES, D, W, PRECISION
    )
    dq_ptr += row * dq_row + head * dq_head + first * dq_step
    store_rows(dq_ptr, dq_step, first_row, queries, dq * (scale / LOG2E * keep_scale), QUERIES, D)
