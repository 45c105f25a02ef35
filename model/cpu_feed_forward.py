"""The second half of a feed-forward network for CPUs: what GELU gives is not kept.

A third of what a layer keeps for its backward pass is the activation's output, four hidden sizes
wide. Computing it again from the input takes a hundredth of the step.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers.activations import GELUActivation

from .plain_linear import is_plain, is_untouched


class GeluLinear(torch.autograd.Function):
    """linear(gelu(x)): x [..., n] → [..., m]; keeps x and the weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(F.gelu(x), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        x, weight = ctx.saved_tensors
        rows = grad.flatten(0, -2)
        d_weight = None
        if ctx.needs_input_grad[1]:  # an adapter's weight is frozen
            d_weight = rows.T @ F.gelu(x).flatten(0, -2)
        d_x = grad @ weight
        torch.ops.aten.gelu_backward.grad_input(d_x, x, grad_input=d_x)
        return d_x, d_weight, rows.sum(0)


def gelu_linear_suits(activation: nn.Module, layer: nn.Module, x: Tensor) -> bool:
    """Whether `layer(activation(x))` in training is GeluLinear's."""
    return (
        x.device.type == "cpu"
        and torch.is_grad_enabled()
        and is_untouched(activation, GELUActivation)
        and activation.act is F.gelu
        and is_plain(layer)
        and not torch.compiler.is_compiling()
    )
