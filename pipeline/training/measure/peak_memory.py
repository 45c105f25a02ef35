"""The most memory that a worker has taken."""

import resource

import torch


def peak_bytes(device: torch.device) -> int:
    """Most bytes of tensors on this process's GPU so far; on a CPU, of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
