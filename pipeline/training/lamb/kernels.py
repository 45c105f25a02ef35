"""A LAMB step on a GPU: three Triton kernels for all tensors of a group, without waiting for them.

`update_moments_kernel` updates the moments and sums squares of weights and updates by chunks: it
reads and writes 24 bytes a weight. `sum_chunks_kernel` adds the chunks of each parameter up in a
fixed order, so that a step always gives the same result. `apply_kernel` computes the update again
and changes the weights: 16 bytes. Without trust ratios `update_moments_kernel` changes the weights
too, in the 28 bytes that AdamW needs.

The tensors may be anywhere in memory: the kernels find them in a table of addresses, as torch's
fused optimizers do.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from pipeline.training.lamb.steps import GroupStep, SteppedTensor, trust_ratios
from pipeline.training.transfer import upload

CHUNK = 4096
"""Weights that one program processes."""
WARPS = 8


@triton.jit
def pointers_of_chunk(chunks_ptr, addresses_ptr, CHUNK: tl.constexpr):
    """Pointers to weights, gradients and moments of a chunk, a mask, index of the parameter."""
    chunks_ptr += tl.program_id(0) * 4
    addresses_ptr += tl.load(chunks_ptr) * 4
    offsets = tl.load(chunks_ptr + 1) + tl.arange(0, CHUNK)
    inside = tl.arange(0, CHUNK) < tl.load(chunks_ptr + 2)
    w = tl.load(addresses_ptr).to(tl.pointer_type(tl.float32)) + offsets
    g = tl.load(addresses_ptr + 1).to(tl.pointer_type(tl.float32)) + offsets
    m = tl.load(addresses_ptr + 2).to(tl.pointer_type(tl.float32)) + offsets
    v = tl.load(addresses_ptr + 3).to(tl.pointer_type(tl.float32)) + offsets
    return w, g, m, v, inside, tl.load(chunks_ptr + 3)


@triton.jit
def update_moments_kernel(
    chunks_ptr, addresses_ptr, sums_ptr, take1, keep2, take2, scale, shift, decay, lr,
    WITH_RATIO: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Moments of a chunk; and its sums [chunks, 2] of squared weights and updates, or its weights.

    take1 = 1 - b1, keep2 = b2, take2 = 1 - b2.
    """
    w_ptr, g_ptr, m_ptr, v_ptr, inside, _ = pointers_of_chunk(chunks_ptr, addresses_ptr, CHUNK)
    w = tl.load(w_ptr, mask=inside, other=0.0)
    g = tl.load(g_ptr, mask=inside, other=0.0)
    m = tl.load(m_ptr, mask=inside, other=0.0)
    v = tl.load(v_ptr, mask=inside, other=0.0)
    m += take1 * (g - m)
    v = keep2 * v + take2 * g * g
    tl.store(m_ptr, m, mask=inside)
    tl.store(v_ptr, v, mask=inside)
    update = m / (tl.sqrt_rn(v) * scale + shift) + decay * w
    if WITH_RATIO:
        sums_ptr += tl.program_id(0) * 2
        tl.store(sums_ptr, tl.sum(w * w))
        tl.store(sums_ptr + 1, tl.sum(update * update))
    else:
        tl.store(w_ptr, w - lr * update, mask=inside)


@triton.jit
def sum_chunks_kernel(sums_ptr, bounds_ptr, squares_ptr, parameters, CHUNK: tl.constexpr):
    """Sums of a parameter's chunks, bounds[p] … bounds[p + 1] - 1, to squares [2, parameters]."""
    parameter = tl.program_id(0)
    last = tl.load(bounds_ptr + parameter + 1)
    weights = tl.zeros([CHUNK], tl.float64)
    updates = tl.zeros([CHUNK], tl.float64)
    for first in range(tl.load(bounds_ptr + parameter), last, CHUNK):
        chunks = first + tl.arange(0, CHUNK)
        weights += tl.load(sums_ptr + 2 * chunks, mask=chunks < last, other=0.0)
        updates += tl.load(sums_ptr + 2 * chunks + 1, mask=chunks < last, other=0.0)
    tl.store(squares_ptr + parameter, tl.sum(weights))
    tl.store(squares_ptr + parameters + parameter, tl.sum(updates))


@triton.jit
def apply_kernel(
    chunks_ptr, addresses_ptr, rates_ptr, scale, shift, decay, CHUNK: tl.constexpr
):  # fmt: skip
    """Weights of a chunk, changed by the rate of their parameter."""
    w_ptr, _, m_ptr, v_ptr, inside, parameter = pointers_of_chunk(chunks_ptr, addresses_ptr, CHUNK)
    w = tl.load(w_ptr, mask=inside, other=0.0)
    m = tl.load(m_ptr, mask=inside, other=0.0)
    v = tl.load(v_ptr, mask=inside, other=0.0)
    update = m / (tl.sqrt_rn(v) * scale + shift) + decay * w
    tl.store(w_ptr, w - tl.load(rates_ptr + parameter) * update, mask=inside)


class Tables:
    """What the programs of a group's kernels read; the same in every step."""

    def __init__(self, tensors: list[SteppedTensor], device: torch.device) -> None:
        rows = []
        parameters = 0
        for number, each in enumerate(tensors):
            for index, _, offset, length in each.slices.slices:
                for start in range(0, length, CHUNK):
                    size = min(CHUNK, length - start)
                    rows.append((number, offset + start, size, parameters + index))
            parameters += len(each.slices.flat.names)
        rows.sort(key=lambda row: row[3])
        self.chunks = upload(torch.tensor(rows, dtype=torch.int64, device="cpu"), device)
        """[chunks, 4] int64: tensor, first element in it, elements, parameter; by parameter"""
        owners = torch.tensor([row[3] for row in rows], dtype=torch.int64, device="cpu")
        counts = torch.bincount(owners, minlength=parameters)
        self.bounds = upload(torch.cat([counts.new_zeros(1), counts.cumsum(0)]), device)
        """[parameters + 1] int64: first chunk of each parameter"""
        self.sums = torch.empty(len(rows), 2, device=device)
        self._known: list[int] = []
        self._addresses = self.bounds

    def addresses(self, tensors: list[SteppedTensor]) -> Tensor:
        """[tensors, 4] int64: addresses of weights, gradients and moments in this step."""
        found = [tensor.data_ptr() for each in tensors for tensor in each.whole()]
        if found != self._known:
            self._known = found
            table = torch.tensor(found, dtype=torch.int64, device="cpu")
            self._addresses = upload(table, self.sums.device)
        return self._addresses


class KernelStep(GroupStep):
    """A step of one parameter group by kernels."""

    def __init__(
        self, group: dict[str, Any], step: int, tensors: list[SteppedTensor], tables: Tables
    ) -> None:
        super().__init__(group, step, tensors)
        self.tables = tables
        self.addresses = tables.addresses(tensors)

    def update_moments(self) -> None:
        beta1, beta2 = self.group["betas"]
        tables = self.tables
        with_ratio = self.squares is not None
        shared = self.scale, self.shift, self.group["weight_decay"]
        with torch.cuda.device_of(tables.sums):
            update_moments_kernel[(len(tables.chunks),)](
                *(tables.chunks, self.addresses, tables.sums),
                *(1 - beta1, beta2, 1 - beta2, *shared, float(self.group["lr"])),
                WITH_RATIO=with_ratio,
                CHUNK=CHUNK,
                num_warps=WARPS,
            )
            if with_ratio:
                n = len(self.names)
                sum_chunks_kernel[(n,)](tables.sums, tables.bounds, self.squares, n, CHUNK=256)

    def apply(self) -> Any:
        if self.squares is None:
            return None
        ratios = trust_ratios(self.squares)
        tables = self.tables
        with torch.cuda.device_of(tables.sums):
            apply_kernel[(len(tables.chunks),)](
                *(tables.chunks, self.addresses, (self.group["lr"] * ratios).float()),
                *(self.scale, self.shift, self.group["weight_decay"]),
                CHUNK=CHUNK,
                num_warps=WARPS,
            )
        return ratios


def accepts(tensors: list[SteppedTensor]) -> bool:
    """Whether all that the kernels would touch is float32 and contiguous."""
    return all(
        tensor.dtype == torch.float32 and tensor.is_contiguous()
        for each in tensors
        for tensor in each.whole()
    )
