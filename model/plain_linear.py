"""When a module's weights may be used without calling the module."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .observed import is_unobserved


def is_plain(*layers: nn.Module) -> bool:
    """Whether they are linear layers whose calls nobody waits for.

    Adapters and quantisers put other modules in their places, ZeRO-3 fills weights in a hook,
    accelerate in a `forward` of its own, and autocast looks at calls.
    """
    return all(
        is_untouched(layer, nn.Linear) and layer.bias is not None for layer in layers
    ) and is_unobserved(str(layers[0].weight.device.type))


def is_untouched(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether it is of just this class, with no hooks and no `forward` of its own."""
    return (
        type(module) is kind
        and "forward" not in vars(module)
        and not module._forward_pre_hooks
        and not module._forward_hooks
        and not module._backward_pre_hooks
        and not module._backward_hooks
    )


def in_one_product(layers: list[nn.Linear], x: Tensor) -> tuple[Tensor, ...]:
    """What layers of one width give for the same x [..., n]: one product instead of several."""
    weight = torch.cat([layer.weight for layer in layers])
    bias = torch.cat([layer.bias for layer in layers])
    return F.linear(x, weight, bias).chunk(len(layers), -1)
