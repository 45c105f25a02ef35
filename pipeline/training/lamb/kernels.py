"""A LAMB step on a GPU: three Triton kernels for all tensors of a group, and no wait for them.

`advance` moves the moments and sums squares of weights and updates by chunks, 24 bytes read and
written a weight; `norms` adds the chunks of a parameter up in a fixed order, so that a step is the
same whenever it is made; `move` computes the update again and moves the weights, 16 bytes. Without
a trust ratio `advance` moves the weights, too, in the 28 bytes that AdamW needs.

The tensors may lie anywhere: kernels find them in a table of addresses, as torch's fused
optimizers do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from pipeline.training.lamb.steps import Member, Work, trust_ratios
from pipeline.training.transfer import upload

CHUNK = 4096
"""Weights that a program takes."""
WARPS = 8


@triton.jit
def place_of(chunks_ptr, addresses_ptr, CHUNK: tl.constexpr):
    """Addresses of a chunk's weights, gradients and moments, which of them it has, parameter."""
    chunks_ptr += tl.program_id(0) * 4
    addresses_ptr += tl.load(chunks_ptr) * 4
    places = tl.load(chunks_ptr + 1) + tl.arange(0, CHUNK)
    inside = tl.arange(0, CHUNK) < tl.load(chunks_ptr + 2)
    w = tl.load(addresses_ptr).to(tl.pointer_type(tl.float32)) + places
    g = tl.load(addresses_ptr + 1).to(tl.pointer_type(tl.float32)) + places
    m = tl.load(addresses_ptr + 2).to(tl.pointer_type(tl.float32)) + places
    v = tl.load(addresses_ptr + 3).to(tl.pointer_type(tl.float32)) + places
    return w, g, m, v, inside, tl.load(chunks_ptr + 3)


@triton.jit
def advance_kernel(
    chunks_ptr, addresses_ptr, sums_ptr, divisor_ptr, take1, keep2, take2, scale, shift, decay, lr,
    DIVIDED: tl.constexpr, ADAPTED: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Moments of a chunk; sums [chunks, 2] of its squared weights and updates, or its weights."""
    w_ptr, g_ptr, m_ptr, v_ptr, inside, _ = place_of(chunks_ptr, addresses_ptr, CHUNK)
    w = tl.load(w_ptr, mask=inside, other=0.0)
    g = tl.load(g_ptr, mask=inside, other=0.0)
    m = tl.load(m_ptr, mask=inside, other=0.0)
    v = tl.load(v_ptr, mask=inside, other=0.0)
    if DIVIDED:
        g /= tl.load(divisor_ptr)
    m += take1 * (g - m)
    v = keep2 * v + take2 * g * g
    tl.store(m_ptr, m, mask=inside)
    tl.store(v_ptr, v, mask=inside)
    update = m / (tl.sqrt_rn(v) * scale + shift) + decay * w
    if ADAPTED:
        sums_ptr += tl.program_id(0) * 2
        tl.store(sums_ptr, tl.sum(w * w))
        tl.store(sums_ptr + 1, tl.sum(update * update))
    else:
        tl.store(w_ptr, w - lr * update, mask=inside)


@triton.jit
def norms_kernel(sums_ptr, bounds_ptr, norms_ptr, parameters, CHUNK: tl.constexpr):
    """Sums of a parameter's chunks, bounds[p] … bounds[p + 1] - 1, to norms [2, parameters]."""
    parameter = tl.program_id(0)
    last = tl.load(bounds_ptr + parameter + 1)
    weights = tl.zeros([CHUNK], tl.float64)
    updates = tl.zeros([CHUNK], tl.float64)
    for first in range(tl.load(bounds_ptr + parameter), last, CHUNK):
        chunks = first + tl.arange(0, CHUNK)
        weights += tl.load(sums_ptr + 2 * chunks, mask=chunks < last, other=0.0)
        updates += tl.load(sums_ptr + 2 * chunks + 1, mask=chunks < last, other=0.0)
    tl.store(norms_ptr + parameter, tl.sum(weights))
    tl.store(norms_ptr + parameters + parameter, tl.sum(updates))


@triton.jit
def move_kernel(
    chunks_ptr, addresses_ptr, rates_ptr, scale, shift, decay, CHUNK: tl.constexpr
):  # fmt: skip
    """Weights of a chunk, by the rate of their parameter."""
    w_ptr, _, m_ptr, v_ptr, inside, parameter = place_of(chunks_ptr, addresses_ptr, CHUNK)
    w = tl.load(w_ptr, mask=inside, other=0.0)
    m = tl.load(m_ptr, mask=inside, other=0.0)
    v = tl.load(v_ptr, mask=inside, other=0.0)
    update = m / (tl.sqrt_rn(v) * scale + shift) + decay * w
    tl.store(w_ptr, w - tl.load(rates_ptr + parameter) * update, mask=inside)


class Grid:
    """What the programs of a group's kernels work on; the same in every step."""

    def __init__(self, members: list[Member], device: torch.device) -> None:
        rows = []
        parameters = 0
        for number, member in enumerate(members):
            for index, offset, length in member.cut.runs():
                for start in range(0, length, CHUNK):
                    size = min(CHUNK, length - start)
                    rows.append((number, offset + start, size, parameters + index))
            parameters += len(member.cut.flat.names)
        rows.sort(key=lambda row: row[3])
        self.chunks = upload(torch.tensor(rows, dtype=torch.int64, device="cpu"), device)
        """[chunks, 4] int64: tensor, first element in it, elements, parameter; by parameter"""
        owners = torch.tensor([row[3] for row in rows], dtype=torch.int64, device="cpu")
        counts = torch.bincount(owners, minlength=parameters)
        self.bounds = upload(torch.cat([counts.new_zeros(1), counts.cumsum(0)]), device)
        """[parameters + 1] int64"""
        self.sums = torch.empty(len(rows), 2, device=device)
        self._known: list[int] = []
        self._addresses = self.bounds

    def addresses(self, members: list[Member]) -> Tensor:
        """[tensors, 4] int64: where weights, gradients and moments are in this step."""
        found = [tensor.data_ptr() for member in members for tensor in whole_columns(member)]
        if found != self._known:
            self._known = found
            self._addresses = upload(
                torch.tensor(found, dtype=torch.int64, device="cpu"), self.sums.device
            )
        return self._addresses


class KernelWork(Work):
    """A step of one parameter group by kernels; what is added up between them is `Work`'s."""

    def __init__(self, group: dict[str, Any], step: int, members: list[Member], grid: Grid) -> None:
        super().__init__(group, step, members)
        self.grid = grid
        self.addresses = grid.addresses(members)

    def advance(self, divisor: Tensor | None) -> None:
        beta1, beta2 = self.group["betas"]
        grid = self.grid
        adapted = self.norms is not None
        shared = self.scale, self.shift, self.group["weight_decay"]
        with torch.cuda.device_of(grid.sums):
            advance_kernel[(len(grid.chunks),)](
                *(grid.chunks, self.addresses, grid.sums),
                grid.sums if divisor is None else divisor,
                *(1 - beta1, beta2, 1 - beta2, *shared, float(self.group["lr"])),
                DIVIDED=divisor is not None,
                ADAPTED=adapted,
                CHUNK=CHUNK,
                num_warps=WARPS,
            )
            if adapted:
                names = len(self.names)
                norms_kernel[(names,)](grid.sums, grid.bounds, self.norms, names, CHUNK=256)

    def apply(self, clamp: tuple[float, float] | None) -> Any:
        if self.norms is None:
            return None
        ratios = trust_ratios(self.norms, clamp)
        grid = self.grid
        with torch.cuda.device_of(grid.sums):
            move_kernel[(len(grid.chunks),)](
                *(grid.chunks, self.addresses, (self.group["lr"] * ratios).float()),
                *(self.scale, self.shift, self.group["weight_decay"]),
                CHUNK=CHUNK,
                num_warps=WARPS,
            )
        return ratios


def whole_columns(member: Member) -> Iterable[Tensor]:
    """A tensor's weights, gradients and moments, not cut."""
    gradient: Any = member.tensor.grad
    return member.tensor, gradient, member.state["exp_avg"], member.state["exp_avg_sq"]


def suits(members: list[Member]) -> bool:
    """Whether all that the kernels would touch is float32 and without gaps."""
    return all(
        tensor.dtype == torch.float32 and tensor.is_contiguous()
        for member in members
        for tensor in whole_columns(member)
    )
