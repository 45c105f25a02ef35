"""The Triton kernels against the definition; on a machine without a GPU in the interpreter."""

import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st

from model.attention import triton_attention
from model.attention.definition import position_table
from model.attention.interface import flash
from model.attention.packing import Packing
from model.attention.triton_attention import Tiles
from model.attention.triton_tiles import kept_by_dropout
from tests.model.attention.cases import (
    assert_close,
    attend,
    definition,
    errors,
    expected,
    kept_for_backward,
    masks,
    operands,
    probed,
    results,
)

SHAPES = [Tiles(16, 32, 4, 1), Tiles(32, 32, 4, 1)]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def on_the_device():
    with torch.device(DEVICE):
        yield


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles so small that short sequences have many, of each sort."""
    shapes = dict(zip(triton_attention.KERNELS, [*SHAPES, SHAPES[0]], strict=True))
    monkeypatch.setattr(triton_attention, "_tiles", lambda _: shapes)


@settings(max_examples=8, deadline=None, derandomize=True)
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


@pytest.mark.parametrize(("head_size", "clip"), [(32, 16), (64, 64), (128, 64), (64, 128), (64, 0)])
def test_tiles_that_ship(head_size: int, clip: int) -> None:
    q, k, v = operands(230, 230, batch=1, heads=1, d=head_size)
    assert_close(results("flash", q, k, v, clip), expected(q, k, v, clip))


def test_a_sequence_that_is_masked_throughout() -> None:
    """Its weights are all alike, forward and backward."""
    q, k, v = operands(40, 40, batch=2, heads=1, d=16)
    mask = torch.zeros(2, 1, 1, 40, device=DEVICE)
    mask[1] = torch.finfo(torch.float32).min
    assert_close(results("flash", q, k, v, 5, mask), results("eager", q, k, v, 5, mask))


@settings(max_examples=4, deadline=None, derandomize=True)
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.usefixtures("small_tiles")
def test_half_precision_is_no_worse_than_eager(dtype: torch.dtype) -> None:
    q, k, v = operands(100, 100, batch=1, heads=2, d=32, dtype=dtype)
    # Triton's interpreter cuts bfloat16 off where a GPU rounds: twice the error.
    allowed = 2.2 if dtype == torch.bfloat16 and DEVICE == "cpu" else 1.1
    for ours, eager in zip(*(errors(x, q, k, v, 32) for x in ("flash", "eager")), strict=True):
        assert ours <= allowed * eager


def dropped_weights(q, k, table, keys, **kwargs) -> torch.Tensor:
    """[heads, Q, K]: a context is linear in the values, so unit vectors show its weights."""

    def context(values):
        torch.manual_seed(5)
        return flash(q, k, values, table, dropout=0.25, **kwargs)

    nothing = torch.zeros(1, q.shape[1], keys, q.shape[3])
    with torch.no_grad():
        base = context(nothing)
        columns = []
        for first in range(0, keys, q.shape[3]):
            units = nothing.clone()
            width = min(q.shape[3], keys - first)
            units[:, :, range(first, first + width), range(width)] = 1
            columns.append((context(units) - base)[0, :, :, :width])
    return torch.cat(columns, -1)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.usefixtures("small_tiles")
def test_dropout(packed: bool) -> None:
    """The mask that the forward pass drew, put into the definition, gives all gradients."""
    length, rate = 48, 0.25
    q, k, v = operands(length, length, batch=1, heads=2, d=16)
    table = position_table(16, 7)
    kwargs = {}
    lengths = [length]
    if packed:
        lengths = [20, 28]
        kwargs = {"packing": Packing.of(torch.tensor([0, 20, 48]), length, 28)}
    weights = dropped_weights(q, k, table, length, **kwargs)
    blocks = torch.block_diag(*(torch.ones(n, n) for n in lengths)).bool()
    assert weights[:, ~blocks].abs().max() < 1e-6 if packed else True
    kept = weights.abs() > 1e-6
    assert abs(kept[:, blocks].double().mean().item() - (1 - rate)) < 0.02

    torch.manual_seed(5)
    found = flash(q, k, v, table, dropout=rate, **kwargs)

    wide = [x.detach().double().requires_grad_() for x in (q, k, v)]
    places = torch.cat([torch.arange(n) for n in lengths])
    rows = (places - places[:, None]).clamp(-7, 7) + 7
    positions = table.double()[rows]
    scores = wide[0] @ wide[1].mT + torch.einsum("bhid,ijd->bhij", wide[0], positions)
    scores = (scores / 4).masked_fill(~blocks, -torch.inf)
    dropped = scores.softmax(-1) * kept / (1 - rate)
    context = dropped @ wide[2] + torch.einsum("bhij,ijd->bhid", dropped, positions)
    assert_close(probed(found, [q, k, v]), probed(context, wide), 2e-5)


@triton.jit
def _mask_kernel(kept_ptr, seed, head, drop_below, SIZE: tl.constexpr, KEYS: tl.constexpr):
    first = tl.program_id(0) * KEYS
    sequence = tl.program_id(1), head, 0
    kept = kept_by_dropout(seed, drop_below, sequence, 0, first, SIZE, KEYS)
    rows, columns = tl.arange(0, SIZE)[:, None], first + tl.arange(0, KEYS)[None, :]
    tl.store(kept_ptr + (tl.program_id(1) * SIZE + rows) * SIZE + columns, kept.to(tl.int8))


def test_dropped_elements_are_independent() -> None:
    """Of keys and of queries, some of which share a draw, of texts, of heads and of seeds."""
    size = 512
    masks = {}
    for case in [(3, 0), (3, 1), (4, 0)]:
        kept = torch.empty(2, size, size, dtype=torch.int8)
        _mask_kernel[size // 64, 2](kept, *case, 64, size, 64)
        masks[case] = kept.double() - 0.75
        assert abs(masks[case].mean().item()) < 0.004
    one = masks[3, 0]
    pairs = [(one[:, :, step:], one[:, :, :-step]) for step in (1, 2, 3, 4, 8, 16)]
    pairs += [(one[:, step:], one[:, :-step]) for step in (1, 2, 8, 16)]
    pairs += [(one[:1], one[1:]), (one, masks[3, 1]), (one, masks[4, 0])]
    for left, right in pairs:
        # A correlation of n independent pairs has a standard error of 1 / √n, 0.002 at most.
        assert abs((left * right).mean().item() / (0.75 * 0.25)) < 0.008


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
