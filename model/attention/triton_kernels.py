"""The kernels of relative attention, forward and backward; see `triton_attention.py`.

Their arguments are explained in `triton_tiles.py`. Further:

    lse     [B·heads·Q, 2] log2 of the sum of the weights of each query in two parts, the highest
            exponent and the rest: where a sequence is masked throughout, the rest would be lost in
            the rounding of the sum
    rows    [B·heads, ROW_FIGURES, slots·SLOTS] numbers of each query for `keys_kernel`: q·ends (2),
            gradient·ends (2), gradient·context over keep_scale, what is added to the exponents of
            2 in the band, left and right of it. Every sequence begins at a multiple of SLOTS and
            fills whole tiles, so that loads of several numbers at a time need no mask.
    turned  [B·heads·Q, 2W] q and the gradient, turned
"""

from .triton_tiles import (
    LOG2E,
    add_by_position,
    by_distance,
    dot_ends,
    dropout_words,
    kept_by_dropout,
    load_matrix,
    load_rows,
    no_sums,
    of_queries,
    over_right,
    pair_products,
    place_of,
    position_vectors,
    product,
    rows_of,
    scores_of,
    store_rows,
    tile_at,
    tile_spans,
    tl,
    triton,
    turned,
)

NUMBERS = ["tiles", "heads", "queries", "keys", "slots", "offset", "clip", "seed", "drop_below"]
"""Triton would compile a kernel again where one of them becomes 1 or a multiple of 16."""


@triton.jit(do_not_specialize=NUMBERS)
def context_kernel(
    all_q, all_k, all_v, all_out, lse_ptr, bias_ptr, cu_seqlens_ptr, tables, tiles, heads, queries,
    keys, offset, clip, scale, seed, drop_below, keep_scale, C: tl.constexpr,
):  # fmt: skip
    """A program computes one tile of the context, and lse of its queries."""
    own, sequence, queries, keys, begin, _ = place_of(
        tiles, heads, cu_seqlens_ptr, queries, keys, 0, C
    )
    first_row = own * C.QUERIES
    if first_row >= queries:
        return
    if C.DROPOUT:
        words = dropout_words(seed, sequence)
    position = first_row + offset
    k_rows, v_rows = rows_of(all_k, sequence), rows_of(all_v, sequence)
    q = load_rows(rows_of(all_q, sequence), first_row, queries, C.QUERIES, C.D)
    turned_q = turned(q, position, tables, C).to(q.dtype)
    on_left, on_right = dot_ends(q, tables, C.D)
    bias_ptr += sequence[0] * keys
    highest = tl.full([C.QUERIES], float("-inf"), tl.float32)
    total = tl.full([C.QUERIES], 0.0, tl.float32)
    context = tl.full([C.QUERIES, C.D], 0.0, tl.float32)
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
            beyond = tl.full([C.QUERIES], 0.0, tl.float32)
            if not EDGE:
                beyond = tl.where(on_the_left, on_left, on_right) * scale
            higher = tl.maximum(highest, tl.max(scores, 1) * factor + beyond)
            shrink = tl.exp2(highest - higher)
            weights = tl.exp2(tl.fma(scores, factor, (beyond - higher)[:, None]))
            total = total * shrink + tl.sum(weights, 1)
            highest = higher
            if C.DROPOUT:
                kept = kept_by_dropout(words, drop_below, first_row, first_key, C)
                weights = tl.where(kept, weights, 0.0)
            by_wave, left, right = sums
            if EDGE:
                by_wave *= shrink[:, None]
            sums = by_wave, left * shrink, right * shrink
            sums = add_by_position(sums, weights, waves, on_the_left, at, EDGE == 1, C)
            context = product(weights.to(v.dtype), v, context * shrink[:, None], C)
    context += position_vectors(sums, position, tables, C)
    context *= (keep_scale / total)[:, None]
    store_rows(rows_of(all_out, sequence), first_row, queries, context, C.QUERIES, C.D)
    rows = first_row + tl.arange(0, C.QUERIES)
    lse_ptr += (begin + rows) * 2
    tl.store(lse_ptr, highest, mask=rows < queries)
    tl.store(lse_ptr + 1, tl.log2(total), mask=rows < queries)


@triton.jit
def slopes_of(q, grad, k, v, banded, figures, bias_ptr, first_row, at, keys, scale, words,
              drop_below, EDGE: tl.constexpr, MASKED: tl.constexpr, C: tl.constexpr):  # fmt: skip
    """The weights of a tile after dropout and the gradients of its scores, float32.

    Both are divided by dropout's keep_scale.

    banded: q and the gradient, turned, and the waves of the keys; used at an EDGE.
    figures: what is added to the exponents of 2 in two parts, of which the second is used with
        C.BIASED; delta; q·ends, used at an EDGE; gradient·ends, whose first is for all keys unless
        at an EDGE.
    """
    turned_q, turned_grad, waves = banded
    exponent, log_total, delta, ends, grad_ends = figures
    slopes = None
    if EDGE:
        slopes = by_distance(pair_products(turned_grad, waves, None, C), grad_ends, at, C)
    scores, factor = scores_of(
        q, k, turned_q, ends, waves, bias_ptr, at, keys, scale, EDGE, MASKED, C
    )
    if C.BIASED:
        # In this order log_total is not rounded away where a sequence is masked throughout.
        weights = tl.exp2(scores + of_queries(exponent, C) - of_queries(log_total, C))
    else:
        weights = tl.exp2(tl.fma(scores, factor, of_queries(exponent, C)))
    slopes = pair_products(grad, v, slopes, C)
    if not EDGE:
        slopes += of_queries(grad_ends[0], C)
    dropped = weights
    if C.DROPOUT:
        _, first_key, _ = at
        kept = kept_by_dropout(words, drop_below, first_row, first_key, C)
        dropped = tl.where(kept, weights, 0.0)
    return dropped, tl.fma(dropped, slopes, weights * of_queries(-delta, C))


@triton.jit(do_not_specialize=NUMBERS)
def queries_kernel(
    all_q, all_k, all_v, all_out, all_grad, all_dq, lse_ptr, rows_ptr, turned_ptr, bias_ptr,
    cu_seqlens_ptr, tables, tiles, heads, queries, keys, slots, offset, clip, scale, seed,
    drop_below, keep_scale, C: tl.constexpr,
):  # fmt: skip
    """A program computes the gradient of one tile of queries, and its `rows` and `turned`."""
    own, sequence, queries, keys, begin, slot = place_of(
        tiles, heads, cu_seqlens_ptr, queries, keys, slots, C
    )
    first_row = own * C.QUERIES
    if first_row >= queries:
        return
    position = first_row + offset
    rows = first_row + tl.arange(0, C.QUERIES)
    inside = rows < queries
    q = load_rows(rows_of(all_q, sequence), first_row, queries, C.QUERIES, C.D)
    grad = load_rows(rows_of(all_grad, sequence), first_row, queries, C.QUERIES, C.D)
    out = load_rows(rows_of(all_out, sequence), first_row, queries, C.QUERIES, C.D)
    delta = tl.sum(grad.to(tl.float32) * out.to(tl.float32), 1) / keep_scale
    q_left, q_right = dot_ends(q, tables, C.D)
    grad_left, grad_right = dot_ends(grad, tables, C.D)
    lse_ptr += (begin + rows) * 2
    log_total = tl.load(lse_ptr + 1, mask=inside, other=0.0)
    exponent = -tl.load(lse_ptr, mask=inside, other=float("inf"))
    if not C.BIASED:
        exponent -= log_total
    on_left, on_right = exponent + q_left * scale, exponent + q_right * scale
    store_figures(rows_ptr + slot + rows, slots * C.SLOTS, q_left, q_right, grad_left, grad_right,
                  delta, exponent, on_left, on_right)  # fmt: skip
    turned_q = turned(q, position, tables, C).to(q.dtype)
    turned_grad = turned(grad, position, tables, C).to(q.dtype)
    turned_ptr += begin * (2 * C.W)
    store_rows((turned_ptr, 2 * C.W), first_row, queries, turned_q, C.QUERIES, C.W)
    store_rows((turned_ptr + C.W, 2 * C.W), first_row, queries, turned_grad, C.QUERIES, C.W)
    words = None
    if C.DROPOUT:
        words = dropout_words(seed, sequence)
    k_rows, v_rows = rows_of(all_k, sequence), rows_of(all_v, sequence)
    bias_ptr += sequence[0] * keys
    dq = tl.full([C.QUERIES, C.D], 0.0, tl.float32)
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
                figures = exponent, log_total, delta, (q_left, q_right), (grad_left, grad_right)
            else:
                lift = tl.where(on_the_left, grad_left, grad_right)
                beyond = tl.where(on_the_left, on_left, on_right)
                figures = beyond, log_total, delta, (lift, lift), (lift, lift)
            _, slopes = slopes_of(
                q, grad, k, v, (turned_q, turned_grad, waves), figures, bias_ptr, first_row, at,
                keys, scale, words, drop_below, EDGE == 1, EDGE == 1, C,
            )  # fmt: skip
            sums = add_by_position(sums, slopes, waves, on_the_left, at, EDGE == 1, C)
            dq = product(slopes.to(k.dtype), k, dq, C)
    dq += position_vectors(sums, position, tables, C)
    dq *= scale / LOG2E * keep_scale
    store_rows(rows_of(all_dq, sequence), first_row, queries, dq, C.QUERIES, C.D)


@triton.jit
def store_figures(rows_ptr, step, a, b, c, d, e, f, g, h):
    """The ROW_FIGURES of some queries."""
    tl.store(rows_ptr, a)
    tl.store(rows_ptr + step, b)
    tl.store(rows_ptr + 2 * step, c)
    tl.store(rows_ptr + 3 * step, d)
    tl.store(rows_ptr + 4 * step, e)
    tl.store(rows_ptr + 5 * step, f)
    tl.store(rows_ptr + 6 * step, g)
    tl.store(rows_ptr + 7 * step, h)


@triton.jit(do_not_specialize=NUMBERS)
def keys_kernel(
    all_q, all_k, all_v, all_grad, all_dk, all_dv, lse_ptr, rows_ptr, turned_ptr, bias_ptr,
    cu_seqlens_ptr, tables, tiles, heads, queries, keys, slots, offset, clip, scale, seed,
    drop_below, keep_scale, C: tl.constexpr,
):  # fmt: skip
    """A program computes the gradients of one tile of keys and values, after `queries_kernel`."""
    own, sequence, queries, keys, begin, slot = place_of(
        tiles, heads, cu_seqlens_ptr, queries, keys, slots, C
    )
    first_key = own * C.KEYS
    if first_key >= keys:
        return
    q_rows, grad_rows = rows_of(all_q, sequence), rows_of(all_grad, sequence)
    k = load_rows(rows_of(all_k, sequence), first_key, keys, C.KEYS, C.D)
    v = load_rows(rows_of(all_v, sequence), first_key, keys, C.KEYS, C.D)
    waves = load_matrix(tables[3] + first_key * C.W, C.KEYS, C.W)
    words = None
    if C.DROPOUT:
        words = dropout_words(seed, sequence)
    bias_ptr += sequence[0] * keys
    turned_ptr += begin * (2 * C.W)
    step = slots * C.SLOTS
    dk = tl.full([C.KEYS, C.D], 0.0, tl.float32)
    dv = tl.full([C.KEYS, C.D], 0.0, tl.float32)
    tiles = tl.cdiv(queries, C.QUERIES)
    outside, banded = tile_spans(first_key - offset, tiles, tiles, clip, C.KEYS, C.QUERIES)
    for EDGE in tl.static_range(2):
        span = banded if EDGE else outside
        for turn in range(0, span[3]):
            tile, before = tile_at(turn, span)
            first_row = tile * C.QUERIES
            at = first_row + offset, first_key, clip
            q = load_rows(q_rows, first_row, queries, C.QUERIES, C.D)
            grad = load_rows(grad_rows, first_row, queries, C.QUERIES, C.D)
            rows = first_row + tl.arange(0, C.QUERIES)
            figures_ptr = rows_ptr + slot + rows
            delta = tl.load(figures_ptr + 4 * step)
            log_total = delta
            if C.BIASED:
                log_total_ptr = lse_ptr + (begin + rows) * 2 + 1
                log_total = tl.load(log_total_ptr, mask=rows < queries, other=0.0)
            turned_q, turned_grad = q, grad
            if EDGE:
                exponent = tl.load(figures_ptr + 5 * step)
                left, right = 0, 1
                if C.ONE_EDGE:
                    # Only one of the ends is needed, and loaded.
                    left = tl.where(over_right(at, C), 1, 0)
                    right = left
                ends = tl.load(figures_ptr + left * step), tl.load(figures_ptr + right * step)
                figures_ptr += 2 * step
                grad_ends = tl.load(figures_ptr + left * step), tl.load(figures_ptr + right * step)
                turned_q = load_rows((turned_ptr, 2 * C.W), first_row, queries, C.QUERIES, C.W)
                turned_grad = load_rows(
                    (turned_ptr + C.W, 2 * C.W), first_row, queries, C.QUERIES, C.W
                )
            else:
                # The first queries have the keys on their right.
                side = tl.where(before, 1, 0) * step
                exponent = tl.load(figures_ptr + 6 * step + side)
                lift = tl.load(figures_ptr + 2 * step + side)
                ends, grad_ends = (lift, lift), (lift, lift)
            # Places after the last key need no mask: they only change rows that are not stored.
            dropped, slopes = slopes_of(
                q, grad, k, v, (turned_q, turned_grad, waves),
                (exponent, log_total, delta, ends, grad_ends), bias_ptr, first_row, at, keys,
                scale, words, drop_below, EDGE == 1, False, C,
            )  # fmt: skip
            dv = product(dropped.to(grad.dtype), grad, dv, C)
            dk = product(slopes.to(q.dtype), q, dk, C)
    dk *= scale / LOG2E * keep_scale
    store_rows(rows_of(all_dk, sequence), first_key, keys, dk, C.KEYS, C.D)
    store_rows(rows_of(all_dv, sequence), first_key, keys, dv * keep_scale, C.KEYS, C.D)
