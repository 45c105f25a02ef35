"""Kernels compiled for CPUs; their results are tested with the other implementations' too."""

import shutil
import zlib
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch

from model import cpu_kernels
from model.attention import tile_sizes as cpu_tiles
from model.attention.choice import eager_attention, position_table, sdpa_attention
from model.cpu_fused_attention import FusedAttention
from model.cpu_kernels import LIBRARY, SOURCES, Norm, add_norm_forward, kernels_suit
from tests.model.attention.cases import operands

BUILT = kernels_suit(torch.empty(0))
needs_kernels = pytest.mark.skipif(not BUILT, reason=f"{LIBRARY} is not built: no C compiler")


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_they_are_built() -> None:
    assert BUILT, "stale, or never built: pip install -e . --no-build-isolation"


def test_they_are_known_by_their_sources() -> None:
    """A change of C files is one of what `cpu_kernels.py` was written for."""
    folder = Path(__file__).parents[2] / "model"
    names = ("cpu_add_norm.c", "cpu_fused_attention.c", "cpu_kernels.h")
    found = zlib.crc32(b"".join((folder / name).read_bytes() for name in names))
    assert found == SOURCES, f"SOURCES = 0x{found:08x}, and compile anew"


@needs_kernels
def test_another_version_is_not_used(monkeypatch) -> None:
    monkeypatch.setattr(cpu_kernels, "SOURCES", SOURCES + 1)
    with pytest.warns(UserWarning, match="another version"):
        assert cpu_kernels._load() is None


def test_what_is_no_library_is_not_used(monkeypatch, tmp_path) -> None:
    (tmp_path / "nezha_none.so").write_bytes(b"no library")
    spec = SimpleNamespace(origin=str(tmp_path / "nezha_none.so"))
    monkeypatch.setattr(cpu_kernels, "find_spec", lambda _: spec)
    with pytest.warns(UserWarning, match=r"nezha_none\.so can not be used"):
        assert cpu_kernels._load() is None


@needs_kernels
@pytest.mark.parametrize(
    ("x", "word"),
    [
        (torch.zeros(3, 8, dtype=torch.bfloat16), "bfloat16"),
        (torch.zeros(2, 8), "Expected 24"),
        (torch.zeros(8, 3).T, "in a row"),
        (torch.zeros(3, 8, device="meta"), "Expected 24"),
    ],
)
def test_other_arrays_than_expected_are_refused(x: torch.Tensor, word: str) -> None:
    y, weight, figures = torch.zeros(3, 8), torch.ones(8), torch.zeros(3, 2)
    with pytest.raises(ValueError, match=word):
        add_norm_forward(Norm(rows=3, width=8), x, y, weight, weight, y, figures)


def with_its_gradients(function, q, k, v, *args):
    context = function(q, k, v, *args)
    probe = torch.cos(torch.arange(context.numel(), dtype=torch.float64)).view(context.shape)
    return context, *torch.autograd.grad((context * probe).sum(), [q, k, v])


@needs_kernels
@pytest.mark.parametrize("tile_bytes", [1, 2**21])
def test_dropout_is_that_of_the_definition(tile_bytes: int) -> None:
    """Values of one key each tell what is dropped; with that mask the definition has to agree."""
    count, rate = 150, 0.25
    q, k, _ = operands(count, count, batch=2, heads=2, d=16)
    table = position_table(16, 20)
    each = torch.eye(count).expand(2, 2, -1, -1)
    with patch.object(cpu_tiles, "TILE_BYTES", tile_bytes):
        torch.manual_seed(5)
        # All keys alike, and positions that add nothing to the values.
        alike = torch.zeros(2, 2, count, count)
        keep = FusedAttention.apply(alike, alike, each, torch.zeros(3, count), None, rate, 0)
        keep = (keep > 0).double() / (1 - rate)
        v = operands(count, count, batch=2, heads=2, d=16, seed=1)[2]
        torch.manual_seed(5)
        found = with_its_gradients(FusedAttention.apply, q, k, v, table, None, rate, 0)

    def definition(q, k, v):
        return eager_attention(q, k, v, table.double(), head_mask=keep)[0]

    wide = [x.detach().double().requires_grad_() for x in (q, k, v)]
    for one, other in zip(found, with_its_gradients(definition, *wide), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-5)


@needs_kernels
def test_neither_tiles_nor_threads_change_what_is_dropped() -> None:
    q, k, v = operands(300, 300, batch=1, heads=3, d=16)
    found = []
    for threads, tile_bytes in ((1, 1), (3, 2**18), (2, 2**24)):
        torch.set_num_threads(threads)
        with patch.object(cpu_tiles, "TILE_BYTES", tile_bytes):
            torch.manual_seed(5)
            table = position_table(16, 20)
            found.append(FusedAttention.apply(q, k, v, table, None, 0.25, 0))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-6, atol=1e-6)


@needs_kernels
def test_exponentials_over_their_whole_range() -> None:
    """One key's score is 0, the others' down to where float32 ends."""
    scores = torch.linspace(0, -110, 4001)
    k = scores[None, None, :, None].contiguous()
    weights = FusedAttention.apply(
        torch.ones(1, 1, 1, 1), k, torch.ones_like(k), torch.zeros(3, 1), None, 0.0, 0
    )
    torch.testing.assert_close(weights, torch.ones(1, 1, 1, 1), rtol=1e-6, atol=0)
    for near, value in ((100, 0.5), (2000, -0.5), (3163, 2.0)):
        v = torch.zeros_like(k)
        v[:, :, near] = value
        found = FusedAttention.apply(torch.ones(1, 1, 1, 1), k, v, torch.zeros(3, 1), None, 0.0, 0)
        expected = (scores.double().softmax(0)[near] * value).float().view(1, 1, 1, 1)
        torch.testing.assert_close(found, expected, rtol=2e-6, atol=1e-37)


@needs_kernels
@pytest.mark.parametrize("part", ["forward", "backward"])
def test_autocast_leaves_products_to_the_kernels(part: str) -> None:
    """It would give them bfloat16, in buffers half the size."""
    inputs = operands(40, 40, batch=2, heads=2, d=16)
    table = position_table(16, 8)
    expected = with_its_gradients(FusedAttention.apply, *inputs, table, None, 0.0, 0)
    with torch.autocast("cpu", torch.bfloat16, enabled=part == "forward"):
        context = FusedAttention.apply(*inputs, table, None, 0.0, 0)
    probe = torch.cos(torch.arange(context.numel(), dtype=torch.float64)).view(context.shape)
    loss = (context * probe).sum()
    with torch.autocast("cpu", torch.bfloat16, enabled=part == "backward"):
        gradients = torch.autograd.grad(loss, inputs)
    for one, other in zip((context, *gradients), expected, strict=True):
        torch.testing.assert_close(one, other)


@needs_kernels
def test_short_texts_do_without_most_of_the_table() -> None:
    q, k, v = operands(5, 9, batch=1, heads=2, d=16)
    kept = []
    for clip in (8, 64):
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x: kept.append(len(x)) or x, lambda x: x
        ):
            FusedAttention.apply(q, k, v, position_table(16, clip), None, 0.0, 4)
    assert kept[: len(kept) // 2] == kept[len(kept) // 2 :]


@pytest.mark.parametrize("shape", [(1, 1, 7, 1), (2, 1, 1, 7), (7,), (2, 3, 7, 7)])
def test_masks_of_any_shape(shape: tuple[int, ...]) -> None:
    q, k, v = operands(7, 7)
    mask, table = torch.randn(shape), position_table(8, 3)
    expected = eager_attention(q, k, v, table, mask)[0]
    torch.testing.assert_close(sdpa_attention(q, k, v, table, mask), expected)


def test_a_table_of_one_row() -> None:
    q, k, v = operands(7, 7)
    table = torch.randn(1, 8)
    expected = eager_attention(q, k, v, table)[0]
    torch.testing.assert_close(sdpa_attention(q, k, v, table), expected)


@pytest.mark.parametrize(("queries", "keys"), [(0, 3), (0, 0)])
def test_no_queries(queries: int, keys: int) -> None:
    q, k, v = operands(queries, keys)
    assert sdpa_attention(q, k, v, position_table(8, 3)).shape == q.shape
