"""Who looks on while operators run, and so whether others may do the same work unseen."""

import torch
from torch import Tensor, nn
from torch._C import _TorchDispatchModeKey as Mode
from torch.autograd import forward_ad

RECORDING = (Mode.FAKE, Mode.PROXY, Mode.FUNCTIONAL)
"""Modes under which an operator is written down or only its shapes are computed."""


def is_recorded() -> bool:
    """Whether what runs is written down as a graph or transformed: that takes torch's operators.

    `torch.compile` is not meant, which breaks its graph where it has to.
    """
    return (
        torch.compiler.is_exporting()
        or torch.jit.is_tracing()
        or (not torch.compiler.is_compiling() and _is_transformed())
    )


def _is_transformed() -> bool:
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_unobserved(device_type: str) -> bool:
    """Whether neither autocast nor a recording waits for the calls made there."""
    return not (torch.is_autocast_enabled(device_type) or is_recorded())


def are_ordinary(*tensors: Tensor) -> bool:
    """Whether all of them are numbers in the memory of one device, for kernels to read.

    Neither subclasses (DTensor) nor fake or meta tensors are, and modes that record operators, as
    `make_fx` does, would miss what kernels do. Modes that only look on, as for counting, change
    nothing: they may be there in a forward pass and not in its recomputation.
    """
    device = tensors[0].device
    return (
        all(type(x) in (Tensor, nn.Parameter) and x.device == device for x in tensors)
        and device.type != "meta"
        and not any(torch._C._get_dispatch_mode(mode) is not None for mode in RECORDING)
    )
