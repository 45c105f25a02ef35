"""When a linear layer's weight may be used without calling the layer."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def is_plain(*layers: nn.Module) -> bool:
    """Whether they are linear layers whose calls nobody waits for.

    Adapters and quantisers put other modules in their places, ZeRO-3 fills weights in a hook, and
    autocast looks at calls.
    """
    return (
        all(
            type(layer) is nn.Linear
            and layer.bias is not None
            and not layer._forward_pre_hooks
            and not layer._forward_hooks
            for layer in layers
        )
        and not torch.is_autocast_enabled(str(layers[0].weight.device.type))
        and not torch.compiler.is_exporting()
        and not torch.jit.is_tracing()
    )


def in_one_product(layers: list[nn.Linear], x: Tensor) -> tuple[Tensor, ...]:
    """What layers of one width give for the same x [..., n]: one product instead of several."""
    weight = torch.cat([layer.weight for layer in layers])
    bias = torch.cat([layer.bias for layer in layers])
    return F.linear(x, weight, bias).chunk(len(layers), -1)
