"""Dropout's rates and seeds, the same for the CPU's code and the Triton kernels."""

import torch

LEVELS = 256
"""A random byte decides whether an element is dropped: rates are rounded to a 256th."""


def new_seed() -> int:
    """A seed from torch's own generator, so that `torch.manual_seed` settles it."""
    return int(torch.randint(2**48, ()))


def new_kernel_seed() -> int:
    """A seed that needs 64 bits: for one of 32 Triton would compile its kernels anew."""
    return 2**48 + new_seed()


def drop_below(rate: float) -> int:
    """Of the LEVELS of a byte, how many drop an element."""
    return round(rate * LEVELS)


def byte_tells(rate: float) -> bool:
    """Whether some levels drop an element and some do not."""
    return 0 < drop_below(rate) < LEVELS


def keep_scale(rate: float) -> float:
    """What kept elements are multiplied by."""
    return LEVELS / (LEVELS - drop_below(rate))
