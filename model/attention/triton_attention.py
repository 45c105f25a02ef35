"""Relative attention as fused Triton kernels, forward and backward, in memory linear in length.

The function is that of `relative_attention.py`. A tile of queries meets tiles of keys of two
sorts. Beside the band |j - i| ≤ k the position term is one number a row, which goes into the
exponent for nothing; in the band and at its edges it is a product of W waves, sines and cosines of
which the table is made (see `table_factors.py`):

    q_i · T[j - i + k] = s_i · sin(j·f) + c_i · cos(j·f)    (s_i, c_i) = M q_i turned by i·f
    Σ_j α_ij T[j - i + k] = M applied to (Σ_j α_ij sin(j·f), Σ_j α_ij cos(j·f)) turned back by i·f

The tiling, the running maximum and the backward pass from the log-sum-exp are FlashAttention's
(https://arxiv.org/abs/2205.14135, https://arxiv.org/abs/2307.08691). Every sum has a fixed order:
the same operands give the same bits.
"""

import math
import sys
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

try:
    import triton
except ImportError:
    # transformers demands every import of a model's code that stands outside of a `try`.
    raise

from ..fused.dropout_rates import LEVELS, drop_below, keep_scale, new_kernel_seed
from .table_factors import table_factors
from .triton_backward import keys_kernel, queries_kernel, rows_kernel
from .triton_forward import context_kernel
from .triton_tiles import INTERPRETED, LOG2E, ROW_FIGURES

HEAD_SIZES = (16, 32, 64, 128)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
KERNELS = ("context", "keys", "queries")
LEAST_CAPABILITY = (8, 0)
"""Older GPUs have less shared memory than a tile takes."""


class Tiles(NamedTuple):
    """Shape of a kernel's work: queries and keys of a tile, warps, loads in flight."""

    queries: int
    keys: int
    warps: int
    stages: int

    @classmethod
    def of(cls, text: str) -> "Tiles":
        """Written as queries,keys,warps,stages."""
        return cls(*map(int, text.split(",")))


def tiles_for(head_size: int, dtype: torch.dtype, shared_memory: int) -> dict[str, Tiles]:
    """Tiles by kernel that fit a block's shared memory (bytes) and take few instructions.

    Chosen by what the compiler makes of them for compute capabilities 8.0, 8.6 and 9.0: see
    `tests/benchmarks/kernel_code.py`.
    """
    wide, roomy = head_size == 128, shared_memory >= 200 << 10
    if dtype == torch.float32:
        return dict.fromkeys(KERNELS, Tiles(16 if wide else 32, 32, 4, 1))
    if not wide:
        deep = Tiles(128, 64, 8, 3 if roomy else 2)
        tiles = deep, Tiles(64, 64, 4, 2), deep
    elif roomy:
        tiles = Tiles(128, 64, 8, 2), Tiles(128, 64, 8, 1), Tiles(64, 32, 4, 2)
    else:
        tiles = Tiles(64, 32, 4, 2), Tiles(32, 64, 4, 2), Tiles(64, 32, 4, 2)
    return dict(zip(KERNELS, tiles, strict=True))


def one_edge(tiles: Tiles, clip: int, offset: int) -> bool:
    """If no tile reaches over both edges of the band, which makes it cheaper to find them."""
    step = math.gcd(tiles.queries, tiles.keys)
    # From the first query of a tile to its first key.
    reaching = range(clip - tiles.keys + 2, tiles.queries - 1 - clip)
    return not any((distance + offset) % step == 0 for distance in reaching)


def _tiles(x: Tensor) -> dict[str, Tiles]:
    shared = sys.maxsize
    if x.device.type == "cuda":
        utilities = triton.runtime.driver.active.utils
        shared = utilities.get_device_properties(x.device.index)["max_shared_mem"]
    return tiles_for(x.shape[3], x.dtype, shared)


class _Tables(NamedTuple):
    """The table's factors for the kernels; L positions, W waves, head size D."""

    factors: Tensor
    """[4, W·D]: M; M with its halves exchanged and the second's sign turned; both transposed

    A kernel that took the transpose of what it loads twice would keep it in shared memory.
    """
    ends: Tensor
    """[2, D] float32"""
    turns: Tensor
    """[L, 2W] float32, cosines and sines of positions, each for M's rows"""
    waves: Tensor
    """[L, W] sines and cosines of positions in the type of the operands"""


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _tables(
    head_size: int, clip: int, length: int, dtype: torch.dtype, device: torch.device
) -> _Tables:
    found = table_factors(head_size, clip)
    sine, cosine = torch.from_numpy(found.sine), torch.from_numpy(found.cosine)
    factors = [torch.cat([sine, cosine]), torch.cat([cosine, -sine])]
    factors += [x.T for x in factors]
    angles = torch.arange(length, device="cpu").double()[:, None] * torch.from_numpy(
        found.frequencies
    )
    sines, cosines = angles.sin(), angles.cos()
    return _Tables(
        torch.stack([x.flatten() for x in factors]).to(device, dtype),
        torch.from_numpy(found.ends).to(device, torch.float32),
        torch.cat([cosines, cosines, sines, sines], 1).to(device, torch.float32),
        torch.cat([sines, cosines], 1).to(device, dtype),
    )


class _Call(NamedTuple):
    """What forward and backward of one call share."""

    texts: int
    queries: int
    """Of the longest text"""
    keys: int
    offset: int
    clip: int
    packed: bool
    dropout: float
    seed: int

    def launch(self, kernel: Any, tiles: Tiles, programs: int, q: Tensor, arguments: list,
               **constants: Any) -> None:  # fmt: skip
        """Run a kernel: so many programs, one a tile, for each text and head."""
        exact = q.dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
        if q.device.type == "cuda":
            constants |= {"num_warps": tiles.warps, "num_stages": tiles.stages}
        with torch.cuda.device_of(q):
            kernel[self.texts * q.shape[1], programs](
                *arguments,
                PACKED=self.packed,
                D=q.shape[3],
                W=self.tables(q).waves.shape[1],
                QUERIES=tiles.queries,
                PRECISION="ieee" if exact else "tf32",
                **constants,
            )

    def switches(self, tiles: Tiles, bias: Tensor | None) -> dict[str, Any]:
        """Constants that all kernels of attention take, but not that of the rows."""
        return {
            "BIASED": bias is not None,
            "DROPOUT": drop_below(self.dropout) > 0,
            "ONE_EDGE": one_edge(tiles, self.clip, self.offset),
            "KEYS": tiles.keys,
        }

    def tables(self, q: Tensor) -> _Tables:
        # Tiles may reach past the last query.
        reach = max(self.offset + self.queries, self.keys) + 128
        length = triton.next_power_of_2(reach)
        return _tables(q.shape[3], self.clip, length, q.dtype, q.device)

    def sizes(self, q: Tensor, k: Tensor) -> list:
        """Numbers that the kernels of attention take."""
        scale = q.shape[3] ** -0.5
        return [
            *(q.shape[1], q.shape[2], k.shape[2], self.offset, self.clip, scale * LOG2E.value),
            *(self.seed, drop_below(self.dropout), keep_scale(self.dropout)),
        ]


class FlashAttention(torch.autograd.Function):
    """The kernels as one differentiable function; only operands, context and a row sum are kept."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor | None,
        cu_seqlens: Tensor | None,
        call: _Call,
    ) -> Tensor:
        q, k, v = (_unit_stride(x) for x in (q, k, v))
        out = _like(q)
        lse = q.new_empty(*q.shape[:3], 2, dtype=torch.float32)
        tables = call.tables(q)
        tiles = _tiles(q)["context"]
        call.launch(
            context_kernel,
            tiles,
            triton.cdiv(call.queries, tiles.queries),
            q,
            [
                *(q, k, v, out, lse, _given(bias, lse), _given(cu_seqlens, lse)),
                *(tables.factors, tables.ends, tables.turns, tables.waves),
                *_steps(q, k, v, out),
                *call.sizes(q, k),
            ],
            **call.switches(tiles, bias),
        )
        ctx.save_for_backward(q, k, v, out, lse, bias, cu_seqlens)
        ctx.call = call
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse, bias, cu_seqlens = ctx.saved_tensors
        call: _Call = ctx.call
        grad = _unit_stride(grad)
        tables = call.tables(q)
        count = q.shape[:3].numel()
        rows = lse.new_empty(count, ROW_FIGURES.value)
        turned = q.new_empty(count, 2, tables.waves.shape[1])
        texts = _given(cu_seqlens, lse)
        by_keys, by_queries = (_tiles(q)[name] for name in ("keys", "queries"))
        query_tiles = triton.cdiv(call.queries, by_queries.queries)
        call.launch(
            rows_kernel,
            by_queries,
            query_tiles,
            q,
            [
                *(q, grad, out, rows, turned, texts, tables.factors, tables.ends, tables.turns),
                *_steps(q, grad, out),
                *(q.shape[1], q.shape[2], call.offset, keep_scale(call.dropout)),
            ],
        )
        dq, dk, dv = (_like(x) for x in (q, k, v))
        shared = [lse, rows, turned, _given(bias, lse), texts]
        call.launch(
            keys_kernel,
            by_keys,
            triton.cdiv(call.keys, by_keys.keys),
            q,
            [
                *(q, k, v, grad, dk, dv, *shared, tables.waves),
                *_steps(q, k, v, grad, dk, dv),
                *call.sizes(q, k),
            ],
            **call.switches(by_keys, bias),
        )
        call.launch(
            queries_kernel,
            by_queries,
            query_tiles,
            q,
            [
                *(q, k, v, grad, dq, *shared),
                *(tables.factors, tables.ends, tables.turns, tables.waves),
                *_steps(q, k, v, grad, dq),
                *call.sizes(q, k),
            ],
            **call.switches(by_queries, bias),
        )
        return dq, dk, dv, None, None, None


def _unit_stride(x: Tensor) -> Tensor:
    return x if x.stride(3) == 1 else x.contiguous()


def _like(x: Tensor) -> Tensor:
    """[B, heads, S, d] with the heads of a token side by side in memory, as projections take it."""
    batch, heads, length, width = x.shape
    return x.new_empty(batch, length, heads, width).transpose(1, 2)


def _given(x: Tensor | None, instead: Tensor) -> Tensor:
    """A pointer that is never followed where there is none."""
    return instead if x is None else x


def _steps(*tensors: Tensor) -> list[int]:
    return [step for x in tensors for step in x.stride()[:3]]


def why_not(q: Tensor, dropout: float) -> str:
    """What the kernels can't do with these operands; empty where they can."""
    if q.device.type != "cuda" and not INTERPRETED:
        return f"it runs on GPUs, not on a {q.device.type}"
    if q.device.type == "cuda" and torch.cuda.get_device_capability(q.device) < LEAST_CAPABILITY:
        return f"it needs compute capability 8.0 (A100, RTX 30) or newer, not {q.device}'s"
    if q.shape[3] not in HEAD_SIZES:
        return f"it has head sizes {HEAD_SIZES}, not {q.shape[3]}"
    if q.dtype not in DTYPES:
        return f"it has no {q.dtype}"
    if drop_below(dropout) >= LEVELS:
        return f"it can't drop out {dropout:.0%}"
    return ""


@torch.compiler.disable
def flash_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    bias: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    longest: int | None = None,
    dropout: float = 0.0,
    offset: int = 0,
) -> Tensor:
    """Context [B, heads, Q, d] of `relative_attention.eager_attention`.

    Args:
        q: [B, heads, Q, d]; k, v [B, heads, K, d]; float32, float16 or bfloat16.
        table: [2k + 1, d] `position_table(d, k)`, of which only the shape is read.
        bias: float32 [B, K] added to the scores of all queries, or None; not with cu_seqlens.
        cu_seqlens: int32 [N + 1]; with it B is 1, Q = K, and tokens cu_seqlens[n] to
            cu_seqlens[n + 1] are a text of its own.
        longest: tokens of the longest such text at most.
        dropout: share of the weights to drop, rounded to a 256th.
        offset: position of the first query.

    Raises:
        ValueError: see `why_not`.
    """
    if reason := why_not(q, dropout):
        raise ValueError(f"flash attention can't: {reason}; attn_implementation='sdpa' finds a way")
    call = _Call(
        texts=q.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1,
        queries=q.shape[2] if longest is None else longest,
        keys=k.shape[2] if longest is None else longest,
        offset=offset,
        clip=table.shape[0] // 2,
        packed=cu_seqlens is not None,
        dropout=dropout,
        seed=new_kernel_seed() if dropout else 0,
    )
    return FlashAttention.apply(q, k, v, bias, cu_seqlens, call)
