"""Relative attention as fused Triton kernels, forward and backward, in memory linear in length.

The function is that of `definition.py`. For a tile of queries there are two sorts of tiles of keys.
Outside the band |j - i| ≤ k the position term is one number for each query, which is added to the
exponent at no cost. In the band and at its edges it is a product with W waves: the table is a
matrix product of these sines and cosines (see `table_factors.py`):

    q_i · T[j - i + k] = s_i · sin(j·f) + c_i · cos(j·f)    (s_i, c_i) = M q_i turned by i·f
    Σ_j α_ij T[j - i + k] = M applied to (Σ_j α_ij sin(j·f), Σ_j α_ij cos(j·f)) turned back by i·f

The tiling, the running maximum and the backward pass from the log-sum-exp are FlashAttention's
(https://arxiv.org/abs/2205.14135, https://arxiv.org/abs/2307.08691). Every sum has a fixed order:
the same operands give the same bits.
"""

import math
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..fused.dropout import LEVELS, drop_below, keep_scale
from ..fused.operators import operator
from .table_factors import table_factors
from .triton_kernels import context_kernel, keys_kernel, queries_kernel
from .triton_tiles import INTERPRETED, LOG2E, ROW_FIGURES, Constants, triton

HEAD_SIZES = (16, 32, 64, 128)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
KERNELS = ("context", "keys", "queries")
LEAST_CAPABILITY = (8, 0)
"""Older GPUs have less shared memory than a tile needs."""


class Tiles(NamedTuple):
    """The shape of a kernel's tiles, and what a program that computes one may use."""

    queries: int
    keys: int
    warps: int
    stages: int
    """Loads in flight"""
    registers: int | None = None
    """Of a thread at most, so that more programs run at a time; the compiler spills the rest."""


def tiles_for(head_size: int, dtype: torch.dtype, shared_memory: int) -> dict[str, Tiles]:
    """Tiles by kernel that fit the shared memory of a block (bytes) and take few instructions.

    A tile of `queries` has a multiple of the queries of a tile of `keys`, which reads what it left.

    Head size 64 of compute capability 9.0 was chosen by time on an H100, the others by the machine
    code for 8.0, 8.6 and 9.0, which `tests/benchmarks/kernel_code.py` shows.
    """
    wide, roomy = head_size == 128, shared_memory >= 200 << 10
    if dtype == torch.float32:
        return dict.fromkeys(KERNELS, Tiles(16 if wide else 32, 32, 4, 1))
    if not wide and roomy:
        tiles = Tiles(64, 64, 4, 3), Tiles(32, 64, 4, 3, 168), Tiles(64, 32, 4, 3, 168)
    elif not wide:
        deep = Tiles(128, 64, 8, 2)
        tiles = deep, Tiles(64, 64, 4, 2), deep
    elif roomy:
        tiles = Tiles(128, 64, 8, 2), Tiles(64, 128, 8, 2), Tiles(64, 32, 4, 2)
    else:
        tiles = Tiles(64, 32, 4, 2), Tiles(32, 64, 4, 2), Tiles(32, 32, 4, 1)
    return dict(zip(KERNELS, tiles, strict=True))


def one_edge(tiles: Tiles, clip: int, offset: int) -> bool:
    """Whether no tile reaches over both edges of the band, which makes the edges cheaper."""
    step = math.gcd(tiles.queries, tiles.keys)
    # Distances from the first query of a tile to its first key at which it reaches over both
    reaching = range(clip - tiles.keys + 2, tiles.queries - 1 - clip)
    return not any((distance + offset) % step == 0 for distance in reaching)


@lru_cache
def _shared_memory(device: torch.device) -> int:
    """Bytes that a block may have. Asking the device at every launch is slow."""
    if device.type != "cuda":
        return sys.maxsize
    utilities = triton.runtime.driver.active.utils
    return utilities.get_device_properties(device.index)["max_shared_mem"]


@lru_cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def _tiles(x: Tensor) -> dict[str, Tiles]:
    return tiles_for(x.shape[3], x.dtype, _shared_memory(x.device))


class Tables(NamedTuple):
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
) -> Tables:
    found = table_factors(head_size, clip)
    sine, cosine = torch.from_numpy(found.sine), torch.from_numpy(found.cosine)
    factors = [torch.cat([sine, cosine]), torch.cat([cosine, -sine])]
    factors += [x.T for x in factors]
    angles = torch.arange(length, device="cpu").double()[:, None] * torch.from_numpy(
        found.frequencies
    )
    sines, cosines = angles.sin(), angles.cos()
    return Tables(
        torch.stack([x.flatten() for x in factors]).to(device, dtype),
        torch.from_numpy(found.ends).to(device, torch.float32),
        torch.cat([cosines, cosines, sines, sines], 1).to(device, torch.float32),
        torch.cat([sines, cosines], 1).to(device, dtype),
    )


def _launcher(
    q: Tensor, k: Tensor, lse: Tensor, bias: Tensor | None, cu_seqlens: Tensor | None,
    clip: int, longest: int, dropout: float, offset: int, scaling: float, seed: Tensor | None,
) -> tuple[Callable[..., None], int]:  # fmt: skip
    """A function that runs the kernels of one call of attention, and the places of its `rows`."""
    packed = cu_seqlens is not None
    sequences = q.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1
    queries, keys = (longest, longest) if packed else (q.shape[2], k.shape[2])
    # Tiles may reach past the last query.
    length = triton.next_power_of_2(max(offset + queries, keys) + 128)
    tables = _tables(q.shape[3], clip, length, q.dtype, q.device)
    shapes = _tiles(q)
    block = shapes["queries"].queries
    slots = triton.cdiv(q.shape[2], block) + (sequences if packed else 0)
    exact = q.dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
    shared: dict[str, Any] = {
        "lse_ptr": lse,
        # Where there is none, a pointer that is never read
        "bias_ptr": lse if bias is None else bias,
        "cu_seqlens_ptr": lse if cu_seqlens is None else cu_seqlens,
        "tables": tuple(tables),
        "heads": q.shape[1],
        "queries": q.shape[2],
        "keys": k.shape[2],
        "slots": slots,
        "offset": offset,
        "clip": clip,
        "scale": scaling * LOG2E.value,
        # Triton would compile its kernels again for a seed of 32 bits.
        "seed": 2**48 + (0 if seed is None else int(seed)),
        "drop_below": drop_below(dropout),
        "keep_scale": keep_scale(dropout),
    }

    def launch(kernel: Any, name: str, **tensors: Tensor) -> None:
        """A program for each sequence, head and tile of queries, or of keys.

        Tensors of four dimensions are passed with their steps, as `all_NAME`.
        """
        tiles, by_key = shapes[name], name == "keys"
        count = triton.cdiv(keys, tiles.keys) if by_key else triton.cdiv(queries, tiles.queries)
        constants = Constants(
            BIASED=bias is not None,
            PACKED=packed,
            DROPOUT=drop_below(dropout) > 0,
            D=q.shape[3],
            W=tables.waves.shape[1],
            PRECISION="ieee" if exact else "tf32",
            QUERIES=tiles.queries,
            KEYS=tiles.keys,
            BY_KEY=by_key,
            SLOTS=block,
            ONE_EDGE=one_edge(tiles, clip, offset),
        )
        values = shared | {"C": constants, "tiles": count}
        for key, x in tensors.items():
            values |= {f"{key}_ptr": x, f"all_{key}": (x, *x.stride()[:3])}
        arguments = {name: values[name] for name in kernel.arg_names}
        if q.device.type == "cuda":
            arguments |= {"num_warps": tiles.warps, "num_stages": tiles.stages}
            arguments |= {"maxnreg": tiles.registers}
        with torch.cuda.device_of(q):
            kernel[(sequences * q.shape[1] * count,)](**arguments)

    return launch, slots * block


@operator(fake=lambda q, *_: (_like(q), q.new_empty(*q.shape[:3], 2, dtype=torch.float32)))
def triton_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, cu_seqlens: Tensor | None, clip: int,
    longest: int, dropout: float, offset: int, scaling: float, seed: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Context [B, heads, Q, d] of `definition.eager_attention`, and lse [B, heads, Q, 2].

    q [B, heads, Q, d]; k, v [B, heads, K, d].
    bias: float32 [B, K] added to the scores of all queries, or None; not with cu_seqlens.
    cu_seqlens: int32 [N + 1]; with it B is 1, Q = K, and tokens cu_seqlens[n] to cu_seqlens[n + 1]
        are a sequence of their own, of at most `longest` tokens.
    """
    q, k, v = (_unit_stride(x) for x in (q, k, v))
    out = _like(q)
    lse = q.new_empty(*q.shape[:3], 2, dtype=torch.float32)
    launch, _ = _launcher(
        q, k, lse, bias, cu_seqlens, clip, longest, dropout, offset, scaling, seed
    )
    launch(context_kernel, "context", q=q, k=k, v=v, out=out)
    return out, lse


@operator(fake=lambda grad, q, k, v, *_: tuple(_like(x) for x in (q, k, v)))
def triton_attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, bias: Tensor | None,
    cu_seqlens: Tensor | None, clip: int, longest: int, dropout: float, offset: int,
    scaling: float, seed: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k and v."""
    grad, q, k, v = (_unit_stride(x) for x in (grad, q, k, v))
    launch, places = _launcher(
        q, k, lse, bias, cu_seqlens, clip, longest, dropout, offset, scaling, seed
    )
    rows = lse.new_empty(*q.shape[:2], ROW_FIGURES.value, places)
    turned = q.new_empty(*q.shape[:3], 4 * len(table_factors(q.shape[3], clip).frequencies))
    dq, dk, dv = (_like(x) for x in (q, k, v))
    given = {"q": q, "k": k, "v": v, "grad": grad, "rows": rows, "turned": turned}
    launch(queries_kernel, "queries", **given, out=out, dq=dq)
    launch(keys_kernel, "keys", **given, dk=dk, dv=dv)
    return dq, dk, dv


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, bias, cu_seqlens, *ctx.numbers, seed = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(q, k, v, *output, bias, cu_seqlens, seed)


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, seed = ctx.saved_tensors
    return *triton_attention_backward(grad, *tensors, *ctx.numbers, seed), *[None] * 8


triton_attention.register_autograd(_backward, setup_context=_save_for_backward)


def _unit_stride(x: Tensor) -> Tensor:
    return x if x.stride(3) == 1 else x.contiguous()


def _like(x: Tensor) -> Tensor:
    """[B, heads, S, d] with the heads of a token side by side in memory, as projections take it."""
    batch, heads, length, width = x.shape
    return x.new_empty(batch, length, heads, width).transpose(1, 2)


def why_not(q: Tensor, dropout: float) -> str:
    """The reason why the kernels do not fit these operands; empty where they do."""
    if q.device.type != "cuda" and not INTERPRETED:
        return f"it runs on GPUs, not on a {q.device.type}"
    if q.device.type == "cuda" and _capability(q.device) < LEAST_CAPABILITY:
        return f"it needs compute capability 8.0 (A100, RTX 30) or newer, not {q.device}'s"
    if q.shape[3] not in HEAD_SIZES:
        return f"it has head sizes {HEAD_SIZES}, not {q.shape[3]}"
    if q.dtype not in DTYPES:
        return f"it has no {q.dtype}"
    if drop_below(dropout) >= LEVELS:
        return f"it can't drop out {dropout:.0%}"
    return ""
