"""Copies from host memory to a device that do not wait for the device."""

import torch
from torch import Tensor


def upload(host: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device. A GPU copies it after the work that it was given before."""
    # A copy from memory that is not pinned would wait for the device.
    host = host.pin_memory() if device.type == "cuda" else host
    return host.to(device, non_blocking=True)
