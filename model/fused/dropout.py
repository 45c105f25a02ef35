"""Dropout for CPUs, at a tenth of the cost of `torch.nn.functional.dropout` there.

Drawing one Bernoulli number an element takes longer than the arithmetic around it. A 64-bit draw
holds eight bytes, and a byte below a threshold drops an element. The backward pass draws the mask
again from the seed, so that no mask is kept. Triton's kernels have the same rates and seeds.

Within `masks_by_sample` a sample has the same masks in any micro-batch, packed or padded, so that a
global batch has the same gradient however it is split among workers.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ..traceable import Traceable
from .operators import only_torch_operators, operator, transforms_are_active

INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integer types by the bytes of an element"""
LEVELS = 256
"""A random byte decides whether an element is dropped: rates are rounded to a 256th."""
WARM_UP = 18
"""Draws of SFC64 after which the words that it began with no longer show (PractRand)."""

_samples: Tensor | None = None
"""Within `masks_by_sample`: int64 [B, 2], the key and the tokens of each sample."""


@contextmanager
def masks_by_sample(keys: Tensor, tokens: Tensor) -> Iterator[None]:
    """Draw the masks of each sample from torch's generator and its key alone.

    It must enclose the backward pass, which may compute activations again. Operators of torch and
    Triton's kernels draw the masks of a whole micro-batch, by the key of its first sample.

    Args:
        keys: int64 [B] on the CPU, numbers that differ between the samples of a step.
        tokens: int64 [B] on the CPU, the length of each sample.
    """
    global _samples
    _samples = torch.stack([keys, tokens], 1)
    try:
        yield
    finally:
        _samples = None


def new_seed() -> Tensor:
    """int64 on the CPU, drawn from torch's generator: `torch.manual_seed` determines it.

    Reading it waits for no device.

    Returns:
        a scalar; within `masks_by_sample` [B, 3], the scalar, key and tokens of each sample.
    """
    seed = torch.randint(2**48, (), dtype=torch.int64, device="cpu")
    if _samples is None:
        return seed
    return torch.cat([seed.expand(len(_samples), 1), _samples], 1)


def scalar_seed(seed: Tensor) -> int:
    """A seed below 2^48; that of samples by the first one's key."""
    if seed.dim() == 0:
        return int(seed)
    drawn, key, _ = seed[0].tolist()
    return (drawn + key * 0x9E3779B97F4A7C15) % 2**48


@operator(
    fake=lambda like: torch.empty((), dtype=torch.int64, device="cpu"),
    tags=[torch.Tag.nondeterministic_seeded],
)
def kernel_seed(like: Tensor) -> Tensor:
    """`scalar_seed(new_seed())` for a kernel on a GPU, int64 on the CPU.

    It is an operator, so that torch.compile makes no code for the CPU out of it. `like` is the
    tensor that the seed is for: torch.compile merges calls that have the same argument.
    """
    return torch.tensor(scalar_seed(new_seed()), device="cpu")


def drop_below(rate: float) -> int:
    """How many of the LEVELS of a byte drop an element."""
    return round(rate * LEVELS)


def is_usable_rate(rate: float) -> bool:
    """Whether some levels of a byte drop an element and others keep it."""
    return 0 < drop_below(rate) < LEVELS


def keep_scale(rate: float) -> float:
    """The factor of elements that are kept."""
    return LEVELS / (LEVELS - drop_below(rate))


def keep_mask(like: Tensor, rate: float, seed: int) -> Tensor:
    """Ones, and zeros with probability `rate`, in the shape of `like`, to multiply its `bits`."""
    # NumPy draws faster than torch, whose generator makes 64 bits of two draws.
    draws = np.random.SFC64(seed).random_raw(-(-like.numel() // 8))
    mask = torch.empty_like(like, dtype=INTEGERS[like.itemsize])
    return keep_where(as_bytes(draws, like.shape), rate, mask)


def as_bytes(draws: NDArray[np.uint64], shape: Sequence[int]) -> Tensor:
    """The first bytes of 64-bit numbers, int8 in this shape."""
    return torch.from_numpy(draws.view(np.int8))[: math.prod(shape)].view(shape)


def keep_where(bytes_: Tensor, rate: float, mask: Tensor) -> Tensor:
    """Write ones, and zeros with probability `rate`, into a mask; a byte decides each element."""
    return torch.ge(bytes_, drop_below(rate) - LEVELS // 2, out=mask)


def draws_of_sample(seed: Sequence[int], part: int, elements: int) -> NDArray[np.uint64]:
    """Random bytes, eight in each number, for a part of one sample's mask.

    Args:
        seed: a row of `new_seed`.
        part: number of the part, for masks that are drawn in parts.
        elements: how many bytes are needed.
    """
    drawn, key, _ = seed
    # To set a state takes 2 µs; to make one from a SeedSequence would take 12.
    words = np.array([drawn, key, part, 1], np.uint64)
    generator = np.random.SFC64(0)
    generator.state = {
        "bit_generator": "SFC64",
        "state": {"state": words},
        "has_uint32": 0,
        "uinteger": 0,
    }
    generator.random_raw(WARM_UP, output=False)
    return generator.random_raw(-(-elements // 8))


def keep_mask_by_sample(like: Tensor, rate: float, seeds: Tensor) -> Tensor:
    """`keep_mask` of hidden states, of samples end to end [1, T, H] or padded [B, S, H].

    Raises:
        ValueError: there are other samples or tokens than the seeds [B, 3] say.
    """
    lengths = seeds[:, 2]
    padded = like.shape[0] == len(seeds)
    starts = torch.arange(len(seeds)) * like.shape[1] if padded else lengths.cumsum(0) - lengths
    if lengths.max() > like.shape[1] if padded else lengths.sum() != like.shape[1]:
        raise ValueError(
            f"hidden states {tuple(like.shape)} do not hold samples of {lengths.tolist()} tokens"
        )
    mask = torch.ones_like(like, dtype=INTEGERS[like.itemsize])
    rows = mask.view(-1, like.shape[2])
    for start, seed in zip(starts.tolist(), seeds.tolist(), strict=True):
        part = rows[start : start + seed[2]]
        keep_where(as_bytes(draws_of_sample(seed, 0, part.numel()), part.shape), rate, part)
    return mask


def bits(x: Tensor) -> Tensor:
    """The memory of a float tensor as integers.

    Times one or zero they are the same number or zero. A CPU multiplies integers in a third of the
    time that half precision takes, which it converts to float32 and back.
    """
    return x.view(INTEGERS[x.itemsize])


@operator(fake=lambda x, rate, seed: torch.empty_like(x, memory_format=torch.contiguous_format))
def cpu_dropout(x: Tensor, rate: float, seed: Tensor) -> Tensor:
    """x with a share `rate` of zeros, the rest scaled; linear in x, so its own derivative."""
    x = x.contiguous()
    keep = keep_mask_by_sample(x, rate, seed) if seed.dim() else keep_mask(x, rate, int(seed))
    return keep.mul_(bits(x)).view(x.dtype).mul_(keep_scale(rate))


def _save_seed(ctx: Any, inputs: tuple[Tensor, float, Tensor], output: Tensor) -> None:
    _, ctx.rate, seed = inputs
    ctx.save_for_backward(seed)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    (seed,) = ctx.saved_tensors
    return cpu_dropout(grad, ctx.rate, seed), None, None


cpu_dropout.register_autograd(_backward, setup_context=_save_seed)


def plain_dropout(x: Tensor, rate: float) -> Tensor:
    """Dropout by operators of torch, which draw for a whole micro-batch.

    On a CPU, within `masks_by_sample`, the generator is in the same state for all micro-batches of
    a step; the key of the first sample then makes their masks differ.
    """
    if _samples is None or rate in (0.0, 1.0) or x.device.type != "cpu" or only_torch_operators():
        return F.dropout(x, rate)
    generator = torch.Generator().manual_seed(scalar_seed(new_seed()))
    kept = torch.empty_like(x).bernoulli_(1 - rate, generator=generator)
    return x * kept / (1 - rate)


class Dropout(Traceable, nn.Dropout):
    """`nn.Dropout`, by the operator for CPUs where that applies."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        if (
            x.device.type != "cpu"
            or not is_usable_rate(self.p)
            or only_torch_operators()
            or transforms_are_active()
        ):
            return plain_dropout(x, self.p)
        return cpu_dropout(x, self.p, new_seed())
