"""The kernels of relative attention, forward and backward; see `triton_attention.py`.

Their arguments are explained in `triton_tiles.py`. Further:

    lse     [B·heads·Q, 2] log2 of the sum of the weights of each query in two parts, the highest
            exponent and the rest: where a sequence is masked throughout, the rest would be lost in
            the rounding of the sum
    rows    [B·heads·Q, ROW_FIGURES] numbers of each query for the backward pass: q·ends (2),
            gradient·ends (2), gradient·context over keep_scale
    turned  [B·heads·Q, 2W] q and the gradient, turned
"""

from .triton_tiles import (
    LOG2E,
    ROW_FIGURES,
    add_by_position,
    by_distance,
    dot_ends,
    kept_by_dropout,
    load_matrix,
    load_rows,
    no_sums,
    position_vectors,
    product,
    rows_of,
    scores_of,
    sequence_and_head,
    store_rows,
    tile_at,
    tile_spans,
    tl,
    triton,
    turned,
)


@triton.jit(do_not_specialize=["seed"])
def context_kernel(
    all_q, all_k, all_v, all_out, lse_ptr, bias_ptr, cu_seqlens_ptr, tables,
    heads, queries, keys, offset, clip, scale, seed, drop_below, keep_scale, C: tl.constexpr,
):  # fmt: skip
    """A program computes one tile of the context, and lse of its rows."""
    first_row = tl.program_id(1) * C.QUERIES
    sequence, begin, queries, keys = sequence_and_head(
        heads, cu_seqlens_ptr, queries, keys, C.PACKED
    )
    if first_row >= queries:
        return
    position = first_row + offset
    k_rows, v_rows = rows_of(all_k, sequence), rows_of(all_v, sequence)
    q = load_rows(rows_of(all_q, sequence), first_row, queries, C.QUERIES, C.D)
    turned_q = turned(q, position, tables, C).to(q.dtype)
    on_left, on_right = dot_ends(q, tables, C.D)
    bias_ptr += sequence[0] * keys
    highest = tl.full([C.QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([C.QUERIES], tl.float32)
    context = tl.zeros([C.QUERIES, C.D], tl.float32)
    sums = no_sums(C)
    outside, banded = tile_spans(
        position, tl.cdiv(keys, C.KEYS), keys // C.KEYS, clip, C.QUERIES, C.KEYS
    )
    for EDGE in tl.static_range(2):
        span = banded if EDGE else outside
        for turn in range(0, span[3]):
            tile, on_the_left = tile_at(turn, span)
            first_key = tile * C.KEYS
            at = position, first_key, clip
            k = load_rows(k_rows, first_key, keys, C.KEYS, C.D)
            v = load_rows(v_rows, first_key, keys, C.KEYS, C.D)
            waves = k
            if EDGE:
                waves = load_matrix(tables[3] + first_key * C.W, C.KEYS, C.W)
            scores, factor = scores_of(
                q, k, turned_q, (on_left, on_right), waves, bias_ptr, at, keys, scale,
                EDGE == 1, EDGE == 1, C,
            )  # fmt: skip
            beyond = tl.zeros([C.QUERIES], tl.float32)
            if not EDGE:
                beyond = tl.where(on_the_left, on_left, on_right) * scale
            higher = tl.maximum(highest, tl.max(scores, 1) * factor + beyond)
            shrink = tl.exp2(highest - higher)
            weights = tl.exp2(tl.fma(scores, factor, (beyond - higher)[:, None]))
            total = total * shrink + tl.sum(weights, 1)
            highest = higher
            if C.DROPOUT:
                kept = kept_by_dropout(
                    seed, drop_below, sequence, first_row, first_key, C.QUERIES, C.KEYS
                )
                weights = tl.where(kept, weights, 0.0)
            by_wave, left, right = sums
            if EDGE:
                by_wave *= shrink[:, None]
            sums = by_wave, left * shrink, right * shrink
            sums = add_by_position(sums, weights, waves, on_the_left, at, EDGE == 1, C)
            context = product(weights.to(v.dtype), v, context * shrink[:, None], C.PRECISION)
    context += position_vectors(sums, position, tables, C)
    context *= (keep_scale / total)[:, None]
    store_rows(rows_of(all_out, sequence), first_row, queries, context, C.QUERIES, C.D)
    rows = first_row + tl.arange(0, C.QUERIES)
    lse_ptr += (begin + rows) * 2
    tl.store(lse_ptr, highest, mask=rows < queries)
    tl.store(lse_ptr + 1, tl.log2(total), mask=rows < queries)


@triton.jit
def rows_kernel(
    all_q, all_grad, all_out, rows_ptr, turned_ptr, cu_seqlens_ptr, tables,
    heads, queries, offset, keep_scale, C: tl.constexpr,
):  # fmt: skip
    """A program computes `rows` and `turned` of one tile of queries."""
    first_row = tl.program_id(1) * C.QUERIES
    sequence, begin, queries, _ = sequence_and_head(
        heads, cu_seqlens_ptr, queries, queries, C.PACKED
    )
    if first_row >= queries:
        return
    q = load_rows(rows_of(all_q, sequence), first_row, queries, C.QUERIES, C.D)
    grad = load_rows(rows_of(all_grad, sequence), first_row, queries, C.QUERIES, C.D)
    out = load_rows(rows_of(all_out, sequence), first_row, queries, C.QUERIES, C.D)
    rows = first_row + tl.arange(0, C.QUERIES)
    rows_ptr += (begin + rows) * ROW_FIGURES
    delta = tl.sum(grad.to(tl.float32) * out.to(tl.float32), 1) / keep_scale
    q_left, q_right = dot_ends(q, tables, C.D)
    grad_left, grad_right = dot_ends(grad, tables, C.D)
    tl.store(rows_ptr, q_left, mask=rows < queries)
    tl.store(rows_ptr + 1, q_right, mask=rows < queries)
    tl.store(rows_ptr + 2, grad_left, mask=rows < queries)
    tl.store(rows_ptr + 3, grad_right, mask=rows < queries)
    tl.store(rows_ptr + 4, delta, mask=rows < queries)
    turned_ptr += begin * (2 * C.W)
    position = first_row + offset
    turned_q = turned(q, position, tables, C)
    store_rows((turned_ptr, 2 * C.W), first_row, queries, turned_q, C.QUERIES, C.W)
    turned_grad = turned(grad, position, tables, C)
    store_rows((turned_ptr + C.W, 2 * C.W), first_row, queries, turned_grad, C.QUERIES, C.W)


@triton.jit
def slopes_of(q, grad, k, v, waves, kept_rows, bias_ptr, on_the_left, first_row, queries, at, keys,
              scale, seed, drop_below, sequence, EDGE: tl.constexpr, MASKED: tl.constexpr,
              C: tl.constexpr):  # fmt: skip
    """The weights of a tile after dropout and the gradients of its scores, [QUERIES, KEYS] float32.

    Both are divided by dropout's keep_scale. kept_rows: pointers to lse, rows and turned of the
    sequence and head.
    """
    lse_ptr, rows_ptr, turned_ptr = kept_rows
    rows = first_row + tl.arange(0, C.QUERIES)
    inside = rows < queries
    highest = tl.load(lse_ptr + rows * 2, mask=inside, other=float("inf"))
    log_total = tl.load(lse_ptr + rows * 2 + 1, mask=inside, other=0.0)
    rows_ptr += rows * ROW_FIGURES
    delta = tl.load(rows_ptr + 4, mask=inside, other=0.0)
    turned_q, slopes = q, None
    if EDGE:
        on_left = tl.load(rows_ptr, mask=inside, other=0.0)
        on_right = tl.load(rows_ptr + 1, mask=inside, other=0.0)
        grad_left = tl.load(rows_ptr + 2, mask=inside, other=0.0)
        grad_right = tl.load(rows_ptr + 3, mask=inside, other=0.0)
        turned_q = load_rows((turned_ptr, 2 * C.W), first_row, queries, C.QUERIES, C.W)
        turned_grad = load_rows((turned_ptr + C.W, 2 * C.W), first_row, queries, C.QUERIES, C.W)
        slopes = product(turned_grad, tl.trans(waves), None, C.PRECISION)
        slopes = by_distance(slopes, (grad_left, grad_right), at, C)
        beyond = tl.zeros([C.QUERIES], tl.float32)
    else:
        side = tl.where(on_the_left, 0, 1)
        on_left = tl.load(rows_ptr + side, mask=inside, other=0.0)
        on_right = on_left
        beyond = on_left * scale
        lift = tl.load(rows_ptr + 2 + side, mask=inside, other=0.0)
    scores, factor = scores_of(
        q, k, turned_q, (on_left, on_right), waves, bias_ptr, at, keys, scale, EDGE, MASKED, C
    )
    if C.BIASED:
        # In this order log_total is not rounded away where a sequence is masked throughout.
        weights = tl.exp2(scores + (beyond - highest)[:, None] - log_total[:, None])
    else:
        weights = tl.exp2(tl.fma(scores, factor, (beyond - highest - log_total)[:, None]))
    slopes = product(grad, tl.trans(v), slopes, C.PRECISION)
    if not EDGE:
        slopes += lift[:, None]
    dropped = weights
    if C.DROPOUT:
        _, first_key, _ = at
        kept = kept_by_dropout(seed, drop_below, sequence, first_row, first_key, C.QUERIES, C.KEYS)
        dropped = tl.where(kept, weights, 0.0)
    return dropped, tl.fma(dropped, slopes, weights * -delta[:, None])


@triton.jit(do_not_specialize=["seed"])
def keys_kernel(
    all_q, all_k, all_v, all_grad, all_dk, all_dv, lse_ptr, rows_ptr, turned_ptr, bias_ptr,
    cu_seqlens_ptr, tables, heads, queries, keys, offset, clip, scale, seed, drop_below,
    keep_scale, C: tl.constexpr,
):  # fmt: skip
    """A program computes the gradients of one tile of keys and values."""
    first_key = tl.program_id(1) * C.KEYS
    sequence, begin, queries, keys = sequence_and_head(
        heads, cu_seqlens_ptr, queries, keys, C.PACKED
    )
    if first_key >= keys:
        return
    q_rows, grad_rows = rows_of(all_q, sequence), rows_of(all_grad, sequence)
    k = load_rows(rows_of(all_k, sequence), first_key, keys, C.KEYS, C.D)
    v = load_rows(rows_of(all_v, sequence), first_key, keys, C.KEYS, C.D)
    waves = load_matrix(tables[3] + first_key * C.W, C.KEYS, C.W)
    bias_ptr += sequence[0] * keys
    kept_rows = lse_ptr + begin * 2, rows_ptr + begin * ROW_FIGURES, turned_ptr + begin * (2 * C.W)
    dk = tl.zeros([C.KEYS, C.D], tl.float32)
    dv = tl.zeros([C.KEYS, C.D], tl.float32)
    tiles = tl.cdiv(queries, C.QUERIES)
    outside, banded = tile_spans(first_key - offset, tiles, tiles, clip, C.KEYS, C.QUERIES)
    for EDGE in tl.static_range(2):
        span = banded if EDGE else outside
        for turn in range(0, span[3]):
            tile, before = tile_at(turn, span)
            first_row = tile * C.QUERIES
            q = load_rows(q_rows, first_row, queries, C.QUERIES, C.D)
            grad = load_rows(grad_rows, first_row, queries, C.QUERIES, C.D)
            # The first queries have the keys on their right. Places after the last key need no
            # mask: they only change rows that are not stored.
            dropped, slopes = slopes_of(
                q, grad, k, v, waves, kept_rows, bias_ptr, not before, first_row, queries,
                (first_row + offset, first_key, clip), keys, scale, seed, drop_below,
                sequence, EDGE == 1, False, C,
            )  # fmt: skip
            dv = product(tl.trans(dropped.to(grad.dtype)), grad, dv, C.PRECISION)
            dk = product(tl.trans(slopes.to(q.dtype)), q, dk, C.PRECISION)
    dk *= scale / LOG2E * keep_scale
    store_rows(rows_of(all_dk, sequence), first_key, keys, dk, C.KEYS, C.D)
    store_rows(rows_of(all_dv, sequence), first_key, keys, dv * keep_scale, C.KEYS, C.D)


@triton.jit(do_not_specialize=["seed"])
def queries_kernel(
    all_q, all_k, all_v, all_grad, all_dq, lse_ptr, rows_ptr, turned_ptr, bias_ptr,
    cu_seqlens_ptr, tables, heads, queries, keys, offset, clip, scale, seed, drop_below,
    keep_scale, C: tl.constexpr,
):  # fmt: skip
    """A program computes the gradient of one tile of queries."""
    first_row = tl.program_id(1) * C.QUERIES
    sequence, begin, queries, keys = sequence_and_head(
        heads, cu_seqlens_ptr, queries, keys, C.PACKED
    )
    if first_row >= queries:
        return
    position = first_row + offset
    k_rows, v_rows = rows_of(all_k, sequence), rows_of(all_v, sequence)
    q = load_rows(rows_of(all_q, sequence), first_row, queries, C.QUERIES, C.D)
    grad = load_rows(rows_of(all_grad, sequence), first_row, queries, C.QUERIES, C.D)
    bias_ptr += sequence[0] * keys
    kept_rows = lse_ptr + begin * 2, rows_ptr + begin * ROW_FIGURES, turned_ptr + begin * (2 * C.W)
    dq = tl.zeros([C.QUERIES, C.D], tl.float32)
    sums = no_sums(C)
    outside, banded = tile_spans(
        position, tl.cdiv(keys, C.KEYS), keys // C.KEYS, clip, C.QUERIES, C.KEYS
    )
    for EDGE in tl.static_range(2):
        span = banded if EDGE else outside
        for turn in range(0, span[3]):
            tile, on_the_left = tile_at(turn, span)
            first_key = tile * C.KEYS
            at = position, first_key, clip
            k = load_rows(k_rows, first_key, keys, C.KEYS, C.D)
            v = load_rows(v_rows, first_key, keys, C.KEYS, C.D)
            waves = k
            if EDGE:
                waves = load_matrix(tables[3] + first_key * C.W, C.KEYS, C.W)
            _, slopes = slopes_of(
                q, grad, k, v, waves, kept_rows, bias_ptr, on_the_left, first_row, queries, at,
                keys, scale, seed, drop_below, sequence, EDGE == 1, EDGE == 1, C,
            )  # fmt: skip
            sums = add_by_position(sums, slopes, waves, on_the_left, at, EDGE == 1, C)
            dq = product(slopes.to(k.dtype), k, dq, C.PRECISION)
    dq += position_vectors(sums, position, tables, C)
    dq *= scale / LOG2E * keep_scale
    store_rows(rows_of(all_dq, sequence), first_row, queries, dq, C.QUERIES, C.D)
