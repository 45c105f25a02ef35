"""Dropout's masks inside Triton kernels, drawn again wherever they are needed."""

try:
    import triton
    import triton.language as tl
except ImportError:
    # transformers requires every package that a model's code imports outside of a `try`.
    raise


@triton.jit
def kept_bytes(seed, a, b, c, d, drop_below):
    """Dropout's mask: for each element of the counters a, b, c and d 16 of its own.

    The bytes of one call of Philox, 7 rounds (https://doi.org/10.1145/2063384.2063405), in four
    new axes [..., 2, 2, 2, 2].
    """
    a, b, c, d = tl.philox(seed, a, b, c, d, 7)
    words = tl.join(tl.join(a, b), tl.join(c, d)).to(tl.uint32)
    pairs = tl.join(words, words << 16)
    draws = tl.join(pairs, pairs << 8)
    # Only a word's highest byte tells: the bits below it make no multiple of 2 ** 24 larger.
    return draws >= (tl.cast(drop_below, tl.uint32) << 24)


@triton.jit
def kept_by_dropout(seed, text, head, first_row, first_key, drop_below, QUERIES: tl.constexpr,
          KEYS: tl.constexpr):  # fmt: skip
    """Dropout's mask of a tile: a function of seed, text, head, query and key alone.

    The 16 bytes of a draw go to the elements of 2 × 32 that one thread has of a product on tensor
    cores: rows 8 apart, and of every 8 columns the same pair. So the mask is drawn where it is
    needed.
    """
    none = tl.zeros([KEYS // 32, QUERIES // 2, 4], dtype=tl.int32)
    queries = first_row // 2 + tl.arange(0, QUERIES // 2)
    keys = first_key // 8 + tl.arange(0, KEYS // 32)[:, None] * 4 + tl.arange(0, 4)[None, :]
    kept = kept_bytes(
        seed,
        none + queries[None, :, None],
        none + keys[:, None, :],
        none + head,
        none + text,
        drop_below,
    )
    kept = tl.reshape(kept, [KEYS // 32, QUERIES // 16, 8, 4, 4, 2, 2])
    return tl.reshape(tl.trans(kept, 1, 5, 2, 0, 4, 3, 6), [QUERIES, KEYS])
