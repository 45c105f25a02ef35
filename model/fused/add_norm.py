"""LayerNorm(dropout(x) + residual) by whatever is fastest for the operands."""

import torch
from torch import Tensor, nn

from ..cpu_add_norm import CpuAddNorm
from ..cpu_kernels import kernels_suit
from ..observed import are_ordinary, is_unobserved
from ..plain_linear import is_untouched
from .dropout import Dropout
from .dropout_rates import byte_tells

try:
    from .triton_add_norm import AddNorm
    from .triton_add_norm import kernels_suit as triton_suits
except ImportError:  # no Triton: torch has none for CPUs and for some systems
    triton_suits = None  # type: ignore[assignment]


def add_norm(norm: nn.LayerNorm, dropout: Dropout, x: Tensor, residual: Tensor) -> Tensor:
    """norm(dropout(x) + residual), both [..., H]."""
    function = fused(norm, dropout, x, residual)
    if function is None:
        return norm(dropout(x) + residual)
    return function.apply(x, residual, norm.weight, norm.bias, norm.eps, dropout.rate)


def fused(
    norm: nn.LayerNorm, dropout: Dropout, x: Tensor, residual: Tensor
) -> type[torch.autograd.Function] | None:
    """What does it all at once, if anything does."""
    if not _may_be_skipped(norm, dropout, x, residual):
        return None
    if kernels_suit(x):
        return CpuAddNorm
    return AddNorm if triton_suits is not None and triton_suits(x) else None


def _may_be_skipped(norm: nn.LayerNorm, dropout: Dropout, x: Tensor, residual: Tensor) -> bool:
    """Whether nothing would be missed if the two modules were not called."""
    return (
        not torch.compiler.is_compiling()
        and is_unobserved(x.device.type)
        and is_untouched(norm, nn.LayerNorm)
        and is_untouched(dropout, Dropout)
        and (dropout.rate == 0 or byte_tells(dropout.rate))
        and norm.elementwise_affine
        and norm.bias is not None
        and norm.weight.shape == x.shape[-1:]
        and x.shape == residual.shape
        and x.numel() > 0
        and x.dtype == residual.dtype == norm.weight.dtype
        and are_ordinary(x, residual, norm.weight, norm.bias)
    )
