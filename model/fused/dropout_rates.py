"""Rates and seeds of dropout, the same for CPUs and for Triton's kernels."""

import torch
from torch import Tensor

LEVELS = 256
"""A random byte decides whether an element is dropped: rates are rounded to a 256th."""


def new_seed() -> Tensor:
    """int64 scalar on the CPU, drawn from torch's generator: `torch.manual_seed` determines it.

    Reading it waits for no device.
    """
    return torch.randint(2**48, (), dtype=torch.int64, device="cpu")


def kernel_seed(seed: Tensor | None) -> int:
    """A seed for Triton of 64 bits, since for one of 32 it would compile its kernels again."""
    return 0 if seed is None else 2**48 + int(seed)


def drop_below(rate: float) -> int:
    """How many of the LEVELS of a byte drop an element."""
    return round(rate * LEVELS)


def byte_tells(rate: float) -> bool:
    """Whether some levels drop an element and others keep it."""
    return 0 < drop_below(rate) < LEVELS


def keep_scale(rate: float) -> float:
    """The factor of elements that are kept."""
    return LEVELS / (LEVELS - drop_below(rate))
