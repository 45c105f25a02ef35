"""Dropout, residual and LayerNorm as one compiled pass forward and one backward on CPUs.

    out = LayerNorm(dropout(x) + residual)

Neither the mask nor the sum is kept for the backward pass, which draws and adds again.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .cpu_kernels import Dropout, Norm, add_norm_backward, add_norm_forward
from .fused.dropout_rates import new_seed


class CpuAddNorm(torch.autograd.Function):
    """x, residual [..., H] of one type that `kernels_suit`, weight and bias [H]."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float, rate: float
    ) -> Tensor:
        x, residual = x.contiguous(), residual.contiguous()
        width = x.shape[-1]
        ctx.norm = Norm(
            rows=x.numel() // width,
            width=width,
            bfloat16=x.dtype == torch.bfloat16,
            dropout=Dropout.of(rate, new_seed() if rate else 0),
            epsilon=eps,
        )
        out = torch.empty_like(x)
        figures = x.new_empty(ctx.norm.rows, 2, dtype=torch.float32)
        add_norm_forward(ctx.norm, x, residual, _float(weight), _float(bias), out, figures)
        ctx.save_for_backward(x, residual, weight, figures)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, residual, weight, figures = ctx.saved_tensors
        dresidual = torch.empty_like(residual)
        dx = torch.empty_like(x) if ctx.norm.dropout.below else dresidual
        sums = add_norm_backward(
            ctx.norm, x, residual, _float(weight), figures, grad.contiguous(), dx, dresidual
        )
        dweight, dbias = sums.to(weight.dtype)
        return dx, dresidual, dweight, dbias, None, None


def _float(x: Tensor) -> Tensor:
    return x.float().contiguous()
