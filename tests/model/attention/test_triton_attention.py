"""The Triton kernels against the definition; on a machine without a GPU in the interpreter."""

from typing import NamedTuple

import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st

from model.attention import triton_attention
from model.attention.definition import position_table
from model.attention.packing import Packing
from model.attention.triton_attention import Tiles
from model.attention.triton_tiles import dropout_words, kept_by_dropout, of_keys, of_queries
from model.fused.dropout import drop_below, keep_scale, new_seed
from tests.model.attention.cases import (
    assert_close,
    attend,
    definition,
    expected,
    kept_for_backward,
    masks,
    operands,
    probed,
    results,
)

SHAPES = [Tiles(16, 32, 4, 1), Tiles(16, 32, 4, 1), Tiles(32, 32, 4, 1)]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def on_the_device():
    with torch.device(DEVICE):
        yield


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles so small that short sequences have many, of each sort."""
    shapes = dict(zip(triton_attention.KERNELS, SHAPES, strict=True))
    monkeypatch.setattr(triton_attention, "_tiles", lambda _: shapes)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    queries=st.integers(1, 70),
    extra=st.integers(0, 20),
    clip=st.sampled_from([0, 1, 3, 7, 64]),
    head_size=st.sampled_from([16, 32]),
    kind=st.sampled_from(["none", "padding"]),
    crossing=st.booleans(),
)
@pytest.mark.usefixtures("small_tiles")
def test_float32(queries, extra, clip, head_size, kind, crossing) -> None:
    keys, offset = (queries + extra, extra) if not crossing else (extra + 1, 5)
    q, k, v = operands(queries, keys, batch=2, heads=1, d=head_size)
    mask = masks(kind, 2, queries, keys)
    found = results("flash", q, k, v, clip, mask, offset)
    assert_close(found, expected(q, k, v, clip, mask, offset))


def test_a_sequence_that_is_masked_throughout() -> None:
    """Its weights are all alike, forward and backward."""
    q, k, v = operands(40, 40, batch=2, heads=1, d=16)
    mask = torch.zeros(2, 1, 1, 40, device=DEVICE)
    mask[1] = torch.finfo(torch.float32).min
    assert_close(results("flash", q, k, v, 5, mask), results("eager", q, k, v, 5, mask))


@settings(max_examples=3, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=4), clip=st.sampled_from([0, 3, 64])
)
@pytest.mark.usefixtures("small_tiles")
def test_packed(lengths: list[int], clip: int) -> None:
    q, k, v = operands(sum(lengths), sum(lengths), batch=1, heads=2, d=16)
    parts = zip(*(x.split(lengths, dim=2) for x in (q, k, v)), strict=True)
    context = torch.cat([definition(*part, clip) for part in parts], 2)
    wanted = probed(context, [q, k, v])
    cu_seqlens = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    packing = Packing.of(cu_seqlens, sum(lengths))
    for implementation in ("flash", "sdpa", "eager"):
        assert_close(results(implementation, q, k, v, clip, packing=packing), wanted)


class MaskTile(NamedTuple):
    QUERIES: int
    KEYS: int
    BY_KEY: bool


@triton.jit(do_not_specialize=["seed", "row", "head", "first", "drop_below", "size"])
def _mask_kernel(kept_ptr, seed, row, head, first, drop_below, size, C: tl.constexpr):
    queries, keys = tl.program_id(0) * C.QUERIES, tl.program_id(1) * C.KEYS
    words = dropout_words(seed, (row.to(tl.int64), head, first.to(tl.int64)))
    kept = kept_by_dropout(words, drop_below, queries, keys, C)
    rows, columns = queries + tl.arange(0, C.QUERIES), keys + tl.arange(0, C.KEYS)
    tl.store(kept_ptr + of_queries(rows, C) * size + of_keys(columns, C), kept.to(tl.int8))


def dropout_mask(size, seed, head=0, row=0, first=0, rate=0.25, by_key=False) -> torch.Tensor:
    """What the kernels keep of a sequence and head, zeros and ones [size, size]."""
    whole = -(-size // 64) * 64
    kept = torch.empty(whole, whole, dtype=torch.int8)
    constants = MaskTile(32, 64, by_key)
    numbers = seed + 2**48, row, head, first, drop_below(rate), whole
    _mask_kernel[whole // 32, whole // 64](kept, *numbers, constants)
    return kept[:size, :size].double()


@pytest.mark.parametrize("case", ["bias, dropout", "packed, dropout"])
@pytest.mark.parametrize("head_size", [64, 128])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_what_ships(dtype: torch.dtype, head_size: int, case: str) -> None:
    """The tiles of training against the definition in float64, with the mask that is drawn."""
    rate, clip, heads = 0.1, 64, 1
    # The tiles of float32 are small: short sequences have all kinds of them.
    small = dtype == torch.float32
    if "packed" in case:
        lengths = [110, 1] if small else [270, 1, 90]
    else:
        lengths = [40, 40] if small else [150, 150]
    torch.manual_seed(5)
    seed = int(new_seed())

    def kept(row: int, first: int, length: int) -> torch.Tensor:
        masks = [dropout_mask(length, seed, head, row, first, rate) for head in range(heads)]
        return torch.stack(masks) * keep_scale(rate)

    torch.manual_seed(5)
    if "packed" in case:
        starts = [0, *torch.tensor(lengths).cumsum(0).tolist()]
        q, k, v = operands(starts[-1], starts[-1], 1, heads, head_size, dtype)
        packing = Packing.of(torch.tensor(starts), starts[-1])
        found = results("flash", q, k, v, clip, packing=packing, dropout=rate)
        parts = zip(*(x.split(lengths, dim=2) for x in (q, k, v)), strict=True)
        context = torch.cat(
            [
                definition(*part, clip, kept=kept(0, first, length))
                for part, first, length in zip(parts, starts[:-1], lengths, strict=True)
            ],
            2,
        )
    else:
        batch, length = len(lengths), lengths[0]
        q, k, v = operands(length, length, batch, heads, head_size, dtype)
        mask = masks("padding", batch, length, length)
        found = results("flash", q, k, v, clip, mask, dropout=rate)
        masks_kept = torch.stack([kept(row, 0, length) for row in range(batch)])
        context = definition(q, k, v, clip, mask, kept=masks_kept)
    for ours, exact in zip(found, probed(context, [q, k, v]), strict=True):
        exact = exact.double()
        error = (ours.double() - exact).square().mean().sqrt() / exact.square().mean().sqrt()
        # Triton's interpreter cuts bfloat16 off where a GPU rounds.
        units = {torch.bfloat16: 2.5, torch.float16: 1.5, torch.float32: 50}[dtype]
        assert error <= units * torch.finfo(dtype).eps


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
@pytest.mark.parametrize("head_size", [64, 128])
def test_a_gpu_gives_the_same_bits_again(head_size: int) -> None:
    """Thousands of programs that run in another order each time."""
    operand = operands(8 * 512, 8 * 512, 1, 12, head_size, torch.bfloat16)
    packing = Packing.of(torch.arange(0, 8 * 512 + 1, 512), 8 * 512)

    def once() -> tuple[torch.Tensor, ...]:
        torch.manual_seed(0)
        return results("flash", *operand, 64, packing=packing, dropout=0.1)

    first = once()
    for _ in range(5):
        assert all(torch.equal(one, other) for one, other in zip(first, once(), strict=True))


def test_both_directions_draw_the_same_mask() -> None:
    assert torch.equal(dropout_mask(128, 3), dropout_mask(128, 3, by_key=True))


@pytest.mark.long
def test_dropped_elements_are_independent() -> None:
    """Of keys and of queries, some of which share a draw; of sequences, heads and seeds."""
    size, rate = 512, 0.25
    others = {"head": 1}, {"row": 1}, {"first": 512}, {"seed": 4}
    one = dropout_mask(size, 3) - (1 - rate)
    pairs = [(one[:, step:], one[:, :-step]) for step in (1, 2, 3, 4, 8, 16)]
    pairs += [(one[step:], one[:-step]) for step in (1, 2, 8, 16)]
    pairs += [(one[8:, 8:], one[:-8, :-8]), (one, one.T)]
    for other in others:
        mask = dropout_mask(**({"size": size, "seed": 3} | other)) - (1 - rate)
        assert abs(mask.mean().item()) < 0.006
        pairs.append((one, mask))
    for left, right in pairs:
        # A correlation of n independent pairs has a standard error of 1 / √n, 0.002.
        assert abs((left * right).mean().item() / (rate * (1 - rate))) < 0.008


def test_tables_are_made_under_any_default_device() -> None:
    with torch.device("meta"):
        tables = triton_attention._tables(16, 11, 64, torch.float32, torch.device("cpu"))
    assert {x.device.type for x in tables} == {"cpu"}


def test_memory_is_linear_in_length() -> None:
    assert kept_for_backward("flash", 128) <= 5


def test_the_same_operands_give_the_same_bits() -> None:
    q, k, v = operands(70, 70, batch=1, heads=1, d=16)
    first, second = (results("flash", q, k, v, 7) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_a_mask_over_queries_goes_the_eager_way() -> None:
    q, k, v = operands(20, 20, batch=2, heads=2, d=16)
    mask = masks("full", 2, 20, 20)
    table = position_table(16, 7)
    flash, _ = attend("flash", q, k, v, table, mask)
    torch.testing.assert_close(flash, attend("eager", q, k, v, table, mask)[0])


@pytest.mark.parametrize(
    ("head_size", "dtype", "dropout", "words"),
    [
        (24, torch.float32, 0.0, "head sizes"),
        (16, torch.float64, 0.0, "float64"),
        (16, torch.float32, 1.0, "drop out"),
    ],
)
def test_what_it_cannot_do_is_said(head_size, dtype, dropout, words) -> None:
    q, k, v = operands(5, 5, d=head_size, dtype=dtype)
    with pytest.raises(ValueError, match=words):
        attend("flash", q, k, v, position_table(head_size, 7), dropout=dropout)


def test_it_asks_for_a_gpu(monkeypatch) -> None:
    monkeypatch.setattr(triton_attention, "INTERPRETED", False)
    with torch.device("cpu"), pytest.raises(ValueError, match="GPU"):
        attend("flash", *operands(5, 5, d=16), position_table(16, 7))
