"""Dropout's masks inside Triton kernels, which draw them again wherever they need them."""

try:
    import triton
    import triton.language as tl
except ImportError:
    # transformers requires every package that a model's code imports outside of a `try`.
    raise


@triton.jit
def kept_bytes(seed, a, b, c, d, drop_below):
    """Dropout's mask: 16 elements for each element of the counters a, b, c and d.

    They are the bytes of one call of Philox, 7 rounds (https://doi.org/10.1145/2063384.2063405), in
    four new axes [..., 2, 2, 2, 2].
    """
    a, b, c, d = tl.philox(seed, a, b, c, d, 7)
    words = tl.join(tl.join(a, b), tl.join(c, d)).to(tl.uint32)
    pairs = tl.join(words, words << 16)
    draws = tl.join(pairs, pairs << 8)
    # Only the highest byte of a word decides: the threshold is a multiple of 2 ** 24.
    return draws >= (tl.cast(drop_below, tl.uint32) << 24)


@triton.jit
def kept_by_dropout(seed, sequence, head, first_row, first_key, drop_below, QUERIES: tl.constexpr,
          KEYS: tl.constexpr):  # fmt: skip
    """Dropout's mask of a tile: a function of seed, sequence, head, query and key alone.

    The 16 bytes of a draw belong to 16 of 2 × 32 elements, those that one thread holds of a product
    on tensor cores: two rows that are 8 apart, and the same pair of each 8 columns. So each thread
    draws its own mask.
    """
    none = tl.zeros([KEYS // 32, QUERIES // 2, 4], dtype=tl.int32)
    queries = first_row // 2 + tl.arange(0, QUERIES // 2)
    keys = first_key // 8 + tl.arange(0, KEYS // 32)[:, None] * 4 + tl.arange(0, 4)[None, :]
    kept = kept_bytes(
        seed,
        none + queries[None, :, None],
        none + keys[:, None, :],
        none + head,
        none + sequence,
        drop_below,
    )
    kept = tl.reshape(kept, [KEYS // 32, QUERIES // 16, 8, 4, 4, 2, 2])
    return tl.reshape(tl.trans(kept, 1, 5, 2, 0, 4, 3, 6), [QUERIES, KEYS])
