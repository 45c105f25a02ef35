"""Dropout, residual and LayerNorm as one Triton kernel forward and one backward.

    out = LayerNorm(dropout(x) + residual)

As separate operators they read and write a tensor seven times forward and seven times backward, and
a mask; as one kernel three and five times. Neither the mask nor the sum is kept for the backward
pass, which draws and adds again.
"""

from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:
    # transformers requires every package that a model's code imports outside of a `try`.
    raise

from .dropout_rates import LEVELS, drop_below, keep_scale, kernel_seed
from .operators import operator
from .triton_dropout import kept_bytes

DEVICES = ("cuda",)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
WIDEST = 4096
"""Elements of the longest row that a program holds in registers, almost without spilling"""
ELEMENTS = 2048
"""Elements of a tile of a program, but at least one row"""
WARPS = 4
PROGRAMS_PER_PROCESSOR = 4
"""In the backward pass: as many as there are registers for."""


@triton.jit
def summed_rows(
    x_ptr, residual_ptr, first, rows, width, seed, drop_below, keep_scale,
    DROPOUT: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """dropout(x) + residual of a tile in float32, where x is kept, and the tile's addresses."""
    row = first + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    inside = (row < rows)[:, None] & (column < width)[None, :]
    places = row[:, None].to(tl.int64) * width + column[None, :]
    x = tl.load(x_ptr + places, mask=inside, other=0.0).to(tl.float32)
    kept = inside
    if DROPOUT:
        none = tl.zeros([ROWS, WIDTH // 16], tl.int32)
        groups = tl.arange(0, WIDTH // 16)[None, :] + none
        kept = kept_bytes(seed, groups, row[:, None] + none, none, none, drop_below)
        kept = tl.reshape(kept, [ROWS, WIDTH])
        x = tl.where(kept, x * keep_scale, 0.0)
    return x + tl.load(residual_ptr + places, mask=inside, other=0.0), kept, places, inside


@triton.jit(do_not_specialize=["seed"])
def add_norm_kernel(
    x_ptr, residual_ptr, weight_ptr, bias_ptr, out_ptr, figures_ptr,
    rows, width, epsilon, seed, drop_below, keep_scale,
    DROPOUT: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """A program computes a tile of rows. figures [rows, 2] float32: mean and 1 / deviation."""
    first = tl.program_id(0) * ROWS
    summed, _, places, inside = summed_rows(
        x_ptr, residual_ptr, first, rows, width, seed, drop_below, keep_scale,
        DROPOUT, ROWS, WIDTH,
    )  # fmt: skip
    mean = tl.sum(summed, 1) / width
    centred = tl.where(inside, summed - mean[:, None], 0.0)
    inverse = tl.rsqrt(tl.sum(centred * centred, 1) / width + epsilon)
    column = tl.arange(0, WIDTH)
    weight = tl.load(weight_ptr + column, mask=column < width, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + column, mask=column < width, other=0.0).to(tl.float32)
    out = centred * inverse[:, None] * weight[None, :] + bias[None, :]
    tl.store(out_ptr + places, out.to(out_ptr.dtype.element_ty), mask=inside)
    row = first + tl.arange(0, ROWS)
    tl.store(figures_ptr + row * 2, mean, mask=row < rows)
    tl.store(figures_ptr + row * 2 + 1, inverse, mask=row < rows)


@triton.jit(do_not_specialize=["seed"])
def add_norm_gradient_kernel(
    grad_ptr, x_ptr, residual_ptr, weight_ptr, figures_ptr, dx_ptr, dresidual_ptr, sums_ptr,
    rows, width, seed, drop_below, keep_scale,
    DROPOUT: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Program p of n computes tiles p, p + n, p + 2n … of rows.

    sums [programs, 2, width] float32: each program's part of the gradients of weight and bias.
    """
    column = tl.arange(0, WIDTH)
    weight = tl.load(weight_ptr + column, mask=column < width, other=0.0).to(tl.float32)
    dweight = tl.zeros([WIDTH], tl.float32)
    dbias = tl.zeros([WIDTH], tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(rows, ROWS), tl.num_programs(0)):
        first = tile * ROWS
        summed, kept, places, inside = summed_rows(
            x_ptr, residual_ptr, first, rows, width, seed, drop_below, keep_scale,
            DROPOUT, ROWS, WIDTH,
        )  # fmt: skip
        row = first + tl.arange(0, ROWS)
        mean = tl.load(figures_ptr + row * 2, mask=row < rows, other=0.0)
        inverse = tl.load(figures_ptr + row * 2 + 1, mask=row < rows, other=0.0)
        normal = tl.where(inside, (summed - mean[:, None]) * inverse[:, None], 0.0)
        grad = tl.load(grad_ptr + places, mask=inside, other=0.0).to(tl.float32)
        dweight += tl.sum(grad * normal, 0)
        dbias += tl.sum(grad, 0)
        slope = grad * weight[None, :]
        along = tl.sum(slope * normal, 1) / width
        level = tl.sum(slope, 1) / width
        dsummed = (slope - normal * along[:, None] - level[:, None]) * inverse[:, None]
        tl.store(dresidual_ptr + places, dsummed.to(dresidual_ptr.dtype.element_ty), mask=inside)
        if DROPOUT:
            dx = tl.where(kept, dsummed * keep_scale, 0.0)
            tl.store(dx_ptr + places, dx.to(dx_ptr.dtype.element_ty), mask=inside)
    sums_ptr += tl.program_id(0) * 2 * width + column
    tl.store(sums_ptr, dweight, mask=column < width)
    tl.store(sums_ptr + width, dbias, mask=column < width)


def _fake_add_norm(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    figures = x.new_empty(x.numel() // x.shape[-1], 2, dtype=torch.float32)
    return x.new_empty(x.shape), figures


@operator(fake=_fake_add_norm)
def triton_add_norm(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float, rate: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """LayerNorm(dropout(x) + residual), and mean and 1 / deviation of each row.

    x, residual [..., H] of one type, weight and bias [H].
    """
    x, residual = x.contiguous(), residual.contiguous()
    out, figures = _fake_add_norm(x)
    rows, width = len(figures), x.shape[-1]
    constants = _constants(x, rate)
    with torch.cuda.device_of(x):
        add_norm_kernel[(triton.cdiv(rows, constants["ROWS"]),)](
            *(x, residual, weight, bias, out, figures, rows, width, eps),
            *(kernel_seed(seed), drop_below(rate), keep_scale(rate)),
            **constants,
        )
    return out, figures


def _fake_backward(
    grad: Tensor, x: Tensor, residual: Tensor, weight: Tensor, figures: Tensor, rate: float, *_: Any
) -> tuple[Tensor, ...]:
    dx = x.new_empty(x.shape if rate else 0)
    return dx, x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(weight.shape)


@operator(fake=_fake_backward)
def triton_add_norm_backward(
    grad: Tensor, x: Tensor, residual: Tensor, weight: Tensor, figures: Tensor, rate: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x (empty without dropout: it is that of residual), residual, weight and bias."""
    x, residual = x.contiguous(), residual.contiguous()
    width, rows = x.shape[-1], len(figures)
    constants = _constants(x, rate)
    programs = min(triton.cdiv(rows, constants["ROWS"]), _programs(x.device))
    dresidual = torch.empty_like(residual)
    dx = x.new_empty(x.shape if rate else 0)
    sums = figures.new_empty(programs, 2, width)
    with torch.cuda.device_of(x):
        add_norm_gradient_kernel[(programs,)](
            *(grad.contiguous(), x, residual, weight, figures, dx, dresidual, sums),
            *(rows, width, kernel_seed(seed), drop_below(rate), keep_scale(rate)),
            **constants,
        )
    dweight, dbias = (total.to(weight.dtype, copy=True) for total in sums.sum(0))
    return dx, dresidual, dweight, dbias


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, residual, weight, _, _, ctx.rate, seed = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, residual, weight, output[1], seed)


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, seed = ctx.saved_tensors
    dx, dresidual, *rest = triton_add_norm_backward(grad, *tensors, ctx.rate, seed)
    return dx if ctx.rate else dresidual, dresidual, *rest, None, None, None


triton_add_norm.register_autograd(_backward, setup_context=_keep)


def tile_shape(width: int) -> tuple[int, int]:
    """Columns and rows of a program's tile, for rows of `width` elements."""
    padded = max(16, triton.next_power_of_2(width))
    return padded, max(1, ELEMENTS // padded)


def _constants(x: Tensor, rate: float) -> dict[str, Any]:
    width, rows = tile_shape(x.shape[-1])
    constants = {"DROPOUT": rate > 0, "ROWS": rows, "WIDTH": width}
    return constants | ({"num_warps": WARPS} if x.device.type == "cuda" else {})


def _programs(device: torch.device) -> int:
    if device.type != "cuda":
        return PROGRAMS_PER_PROCESSOR
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    return PROGRAMS_PER_PROCESSOR * processors


def fits(x: Tensor, rate: float) -> bool:
    """Whether the kernels are for the device, the dtype and the width of x, and for the rate."""
    return (
        x.device.type in DEVICES
        and x.dtype in DTYPES
        and 0 < x.shape[-1] <= WIDEST
        and x.numel() > 0
        and drop_below(rate) < LEVELS
    )
