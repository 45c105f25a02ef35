"""From host memory to the device, without waiting for what the device is doing."""

from __future__ import annotations

import torch
from torch import Tensor


def upload(host: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; a GPU copies it when its turn comes."""
    # Out of pinned memory the copy waits for nobody.
    host = host.pin_memory() if device.type == "cuda" else host
    return host.to(device, non_blocking=True)
