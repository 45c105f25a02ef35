"""The backward kernels of relative attention; see `triton_attention.py`."""

try:
    import triton
    import triton.language as tl
except ImportError:
    # transformers demands every import of a model's code that stands outside of a `try`.
    raise

from .triton_tiles import (
    LOG2E,
    ROW_FIGURES,
    add_by_position,
    by_distance,
    dot_end,
    exponents_of,
    kept_by_dropout,
    key_tile_bounds,
    key_waves,
    load_rows,
    no_sums,
    position_vectors,
    product,
    query_tile_bounds,
    store_rows,
    text_and_head,
    turned,
)


@triton.jit
def rows_kernel(
    q_ptr, grad_ptr, out_ptr, rows_ptr, turned_ptr, cu_seqlens_ptr,
    factors_ptr, ends_ptr, turns_ptr,
    q_row, q_head, q_step, grad_row, grad_head, grad_step, out_row, out_head, out_step,
    heads, queries, offset, PACKED: tl.constexpr, D: tl.constexpr, R: tl.constexpr,
    QUERIES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What the backward pass needs of each query.

    rows [B·heads·Q, ROW_FIGURES]: q·ends (2), gradient·ends (2), gradient·context. turned
    [B·heads·Q, 4R]: q and the gradient, turned.
    """
    first_row = tl.program_id(1) * QUERIES
    row, head, first, begin, queries, _ = text_and_head(
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
    delta = tl.sum(grad.to(tl.float32) * out.to(tl.float32), 1)
    tl.store(rows_ptr + 4, delta, mask=inside)
    turned_ptr += begin * (4 * R)
    position = first_row + offset
    sine, cosine = turned(q, position, factors_ptr, turns_ptr, QUERIES, D, R, PRECISION)
    store_rows(turned_ptr, 4 * R, first_row, queries, sine, QUERIES, R)
    store_rows(turned_ptr + R, 4 * R, first_row, queries, cosine, QUERIES, R)
    sine, cosine = turned(grad, position, factors_ptr, turns_ptr, QUERIES, D, R, PRECISION)
    store_rows(turned_ptr + 2 * R, 4 * R, first_row, queries, sine, QUERIES, R)
    store_rows(turned_ptr + 3 * R, 4 * R, first_row, queries, cosine, QUERIES, R)


@triton.jit
def slopes_of(
    q, grad, k, v, sine, cosine, turned_ptr, rows_ptr, lse_ptr, bias_ptr,
    first_row, first_key, queries, keys, offset, clip, scale, seed, row, head, dropout_row,
    drop_below, keep_scale,
    SIDE: tl.constexpr, BIASED: tl.constexpr, DROPOUT: tl.constexpr, R: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile's dropped weights and the gradients of its scores, both [QUERIES, KEYS] float32."""
    rows = first_row + tl.arange(0, QUERIES)
    inside = rows < queries
    rows_ptr += rows * ROW_FIGURES
    on_left = tl.load(rows_ptr, mask=inside, other=0.0)
    on_right = tl.load(rows_ptr + 1, mask=inside, other=0.0)
    grad_left = tl.load(rows_ptr + 2, mask=inside, other=0.0)
    grad_right = tl.load(rows_ptr + 3, mask=inside, other=0.0)
    delta = tl.load(rows_ptr + 4, mask=inside, other=0.0)
    highest = tl.load(lse_ptr + rows * 2, mask=inside, other=float("inf"))
    log_total = tl.load(lse_ptr + rows * 2 + 1, mask=inside, other=0.0)
    turned_sine, turned_cosine, grad_sine, grad_cosine = q, q, q, q
    if SIDE == 0:
        turned_sine = load_rows(turned_ptr, 4 * R, first_row, queries, QUERIES, R)
        turned_cosine = load_rows(turned_ptr + R, 4 * R, first_row, queries, QUERIES, R)
        grad_sine = load_rows(turned_ptr + 2 * R, 4 * R, first_row, queries, QUERIES, R)
        grad_cosine = load_rows(turned_ptr + 3 * R, 4 * R, first_row, queries, QUERIES, R)
    exponents = exponents_of(
        q, k, turned_sine, turned_cosine, on_left, on_right, sine, cosine, bias_ptr,
        first_row, first_key, keys, offset, clip, scale, SIDE, BIASED, QUERIES, KEYS, PRECISION,
    )  # fmt: skip
    weights = tl.exp2(exponents - highest[:, None] - log_total[:, None])
    slopes = product(grad, tl.trans(v), None, PRECISION)
    if SIDE == 0:
        products = product(grad_sine, tl.trans(sine), None, PRECISION)
        products = product(grad_cosine, tl.trans(cosine), products, PRECISION)
        distance = (first_key + tl.arange(0, KEYS))[None, :] - (rows + offset)[:, None]
        slopes += by_distance(products, grad_left, grad_right, distance, clip)
    elif SIDE < 0:
        slopes += grad_left[:, None]
    else:
        slopes += grad_right[:, None]
    dropped = weights
    if DROPOUT:
        kept = kept_by_dropout(
            seed, row, head, dropout_row + first_row, first_key, drop_below, QUERIES, KEYS
        )
        dropped = tl.where(kept, weights * keep_scale, 0.0)
        slopes = tl.where(kept, slopes * keep_scale, 0.0)
    return dropped, weights * (slopes - delta[:, None])


@triton.jit(do_not_specialize=["seed"])
def keys_kernel(
    q_ptr, k_ptr, v_ptr, grad_ptr, dk_ptr, dv_ptr, lse_ptr, rows_ptr, turned_ptr, bias_ptr,
    cu_seqlens_ptr, waves_ptr,
    q_row, q_head, q_step, k_row, k_head, k_step, v_row, v_head, v_step,
    grad_row, grad_head, grad_step, dk_row, dk_head, dk_step, dv_row, dv_head, dv_step,
    heads, queries, keys, offset, clip, scale, seed, drop_below, keep_scale,
    BIASED: tl.constexpr, PACKED: tl.constexpr, DROPOUT: tl.constexpr, D: tl.constexpr,
    R: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A program makes the gradients of one tile of keys and values."""
    first_key = tl.program_id(1) * KEYS
    bias_step = keys
    row, head, first, begin, queries, keys = text_and_head(
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
    sine, cosine = key_waves(waves_ptr, first_key, keys, KEYS, R)
    bias_ptr += row * bias_step
    lse_ptr += begin * 2
    rows_ptr += begin * ROW_FIGURES
    turned_ptr += begin * (4 * R)
    dk = tl.zeros([KEYS, D], tl.float32)
    dv = tl.zeros([KEYS, D], tl.float32)
    right, left, tiles = query_tile_bounds(first_key, queries, offset, clip, QUERIES, KEYS)
    for turn in tl.static_range(3):
        begin_tile = 0 if turn == 0 else (right if turn == 1 else left)
        end_tile = right if turn == 0 else (left if turn == 1 else tiles)
        for tile in range(begin_tile, end_tile):
            first_row = tile * QUERIES
            q = load_rows(q_ptr, q_step, first_row, queries, QUERIES, D)
            grad = load_rows(grad_ptr, grad_step, first_row, queries, QUERIES, D)
            dropped, slopes = slopes_of(
                q, grad, k, v, sine, cosine, turned_ptr, rows_ptr, lse_ptr, bias_ptr,
                first_row, first_key, queries, keys, offset, clip, scale,
                seed, row, head, first, drop_below, keep_scale,
                1 - turn, BIASED, DROPOUT, R, QUERIES, KEYS, PRECISION,
            )  # fmt: skip
            dv = product(tl.trans(dropped.to(grad.dtype)), grad, dv, PRECISION)
            dk = product(tl.trans(slopes.to(q.dtype)), q, dk, PRECISION)
    dk_ptr += row * dk_row + head * dk_head + first * dk_step
    dv_ptr += row * dv_row + head * dv_head + first * dv_step
    store_rows(dk_ptr, dk_step, first_key, keys, dk * (scale / LOG2E), KEYS, D)
    store_rows(dv_ptr, dv_step, first_key, keys, dv, KEYS, D)


@triton.jit(do_not_specialize=["seed"])
def queries_kernel(
    q_ptr, k_ptr, v_ptr, grad_ptr, dq_ptr, lse_ptr, rows_ptr, turned_ptr, bias_ptr,
    cu_seqlens_ptr, factors_ptr, ends_ptr, turns_ptr, waves_ptr,
    q_row, q_head, q_step, k_row, k_head, k_step, v_row, v_head, v_step,
    grad_row, grad_head, grad_step, dq_row, dq_head, dq_step,
    heads, queries, keys, offset, clip, scale, seed, drop_below, keep_scale,
    BIASED: tl.constexpr, PACKED: tl.constexpr, DROPOUT: tl.constexpr, D: tl.constexpr,
    R: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A program makes the gradient of one tile of queries."""
    first_row = tl.program_id(1) * QUERIES
    bias_step = keys
    row, head, first, begin, queries, keys = text_and_head(
        heads, cu_seqlens_ptr, queries, keys, PACKED
    )
    if first_row >= queries:
        return
    q_ptr += row * q_row + head * q_head + first * q_step
    grad_ptr += row * grad_row + head * grad_head + first * grad_step
    q = load_rows(q_ptr, q_step, first_row, queries, QUERIES, D)
    grad = load_rows(grad_ptr, grad_step, first_row, queries, QUERIES, D)
    k_ptr += row * k_row + head * k_head + first * k_step
    v_ptr += row * v_row + head * v_head + first * v_step
    bias_ptr += row * bias_step
    lse_ptr += begin * 2
    rows_ptr += begin * ROW_FIGURES
    turned_ptr += begin * (4 * R)
    dq = tl.zeros([QUERIES, D], tl.float32)
    sums = no_sums(QUERIES, R)
    left, right, tiles = key_tile_bounds(first_row, keys, offset, clip, QUERIES, KEYS)
    for side in tl.static_range(-1, 2):
        begin_tile = 0 if side < 0 else (left if side == 0 else right)
        end_tile = left if side < 0 else (right if side == 0 else tiles)
        for tile in range(begin_tile, end_tile):
            first_key = tile * KEYS
            k = load_rows(k_ptr, k_step, first_key, keys, KEYS, D)
            v = load_rows(v_ptr, v_step, first_key, keys, KEYS, D)
            sine, cosine = k, k
            if side == 0:
                sine, cosine = key_waves(waves_ptr, first_key, keys, KEYS, R)
            _, slopes = slopes_of(
                q, grad, k, v, sine, cosine, turned_ptr, rows_ptr, lse_ptr, bias_ptr,
                first_row, first_key, queries, keys, offset, clip, scale,
                seed, row, head, first, drop_below, keep_scale,
                side, BIASED, DROPOUT, R, QUERIES, KEYS, PRECISION,
            )  # fmt: skip
            dq = product(slopes.to(k.dtype), k, dq, PRECISION)
            sums = add_by_position(
                sums, slopes, sine, cosine, first_row, first_key, offset, clip,
                side, QUERIES, KEYS, PRECISION,
            )  # fmt: skip
    dq += position_vectors(
        sums, first_row + offset, factors_ptr, ends_ptr, turns_ptr, QUERIES, D, R, PRECISION
    )
    dq_ptr += row * dq_row + head * dq_head + first * dq_step
    store_rows(dq_ptr, dq_step, first_row, queries, dq * (scale / LOG2E), QUERIES, D)
