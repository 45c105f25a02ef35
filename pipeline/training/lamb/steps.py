"""A LAMB step of one parameter group with torch's operators, on slices of its tensors.

On a CPU the slices are processed in blocks whose temporary tensors stay in the cache. The update is
computed twice, once for its norm and once to apply it: storing and loading it in between would
move as much memory.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipeline.training.lamb.fragments import FlatTensor, Fragment

BLOCK = 1 << 17
"""Elements that a CPU thread processes at a time: with temporaries 3 MiB (see lamb_cost.py)."""


def trust_ratios(squares: Tensor) -> Tensor:
    """|w| / |u| from squared norms [2, n] of weights and updates; 1 where either is 0. [n]"""
    weights, updates = squares.sqrt()
    both = (weights > 0) & (updates > 0)
    return torch.where(both, weights / updates.where(both, 1.0), 1.0)


def _block_size(device: torch.device) -> float:
    """Elements of a block: all of them on a GPU, what the threads' caches hold on a CPU."""
    return BLOCK * torch.get_num_threads() if device.type == "cpu" else math.inf


class Slices(NamedTuple):
    """How a flat tensor is divided into slices, each of one parameter and at most a block long."""

    flat: FlatTensor
    slices: list[Fragment]

    @classmethod
    def of(cls, flat: FlatTensor) -> "Slices":
        slices = []
        block = _block_size(flat.tensor.device)
        for parameter, start, offset, length in flat.fragments:
            # A tensor with gaps between its elements is one slice.
            longest = int(min(block, length)) if flat.tensor.is_contiguous() else length
            for skipped in range(0, length, longest):
                size = min(longest, length - skipped)
                slices.append(Fragment(parameter, start + skipped, offset + skipped, size))
        return cls(flat, slices)

    def views(self, tensor: Tensor) -> list[Tensor]:
        """The slices of a tensor that is laid out like `flat.tensor`."""
        if [each.length for each in self.slices] == [tensor.numel()]:
            return [tensor]
        elements = tensor.view(-1)
        return [elements.narrow(0, offset, length) for _, _, offset, length in self.slices]


class SteppedTensor(NamedTuple):
    """A tensor that takes part in a step."""

    tensor: Tensor
    slices: Slices
    state: dict[str, Any]
    """The optimizer's: `step`, `exp_avg`, `exp_avg_sq`."""

    def steps(self) -> int:
        return self.state["step"]

    def whole(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Weights, gradients and both moments."""
        gradient: Any = self.tensor.grad
        return self.tensor, gradient, self.state["exp_avg"], self.state["exp_avg_sq"]


class GroupStep:
    """A step of one parameter group: first `update_moments`, which takes norms, then `apply`.

    Between the two the norms are summed over the ranks.
    """

    def __init__(self, group: dict[str, Any], step: int, tensors: list[SteppedTensor]) -> None:
        self.group, self.tensors = group, tensors
        self.names = tuple(name for each in tensors for name in each.slices.flat.names)
        self.sharded = tensors[0].slices.flat.sharded
        self.device = tensors[0].tensor.device
        self.squares: Any = None
        """Squared norms of weights and updates, float64 [2, n]; None without trust ratios."""
        if group["trust_ratio"]:
            self.squares = torch.zeros(2, len(self.names), dtype=torch.float64, device=self.device)
        beta1, beta2 = group["betas"]
        correction1, correction2 = 1 - beta1**step, 1 - beta2**step
        # m / c1 / (sqrt(v / c2) + eps) = m / (sqrt(v) * scale + shift)
        self.scale = correction1 / math.sqrt(correction2)
        self.shift = correction1 * group["eps"]

    def update_moments(self) -> None:
        """Update the moments; with trust ratios, also sum squares of weights and updates."""
        beta1, beta2 = self.group["betas"]
        decay = self.group["weight_decay"]
        self._blocks = list(self._make_blocks())
        for parameters, w, g, m, v in self._blocks:
            torch._foreach_lerp_(m, g, 1 - beta1)
            torch._foreach_mul_(v, beta2)
            torch._foreach_addcmul_(v, g, g, 1 - beta2)
            if self.squares is None:
                continue
            update = torch._foreach_div(m, self._denominator(v))
            if decay:
                torch._foreach_add_(update, w, alpha=decay)
            norms = torch.stack([*torch._foreach_norm(w), *torch._foreach_norm(update)])
            columns = torch.tensor(parameters, device=self.device)
            self.squares.index_add_(1, columns, norms.double().square_().view(2, -1))

    def apply(self) -> Any:
        """Change the weights; returns the parameters' trust ratios [n], None without them."""
        lr, decay = self.group["lr"], self.group["weight_decay"]
        ratios = None if self.squares is None else trust_ratios(self.squares)
        rates = [lr] * len(self.names) if ratios is None else (lr * ratios).tolist()
        for parameters, w, _, m, v in self._blocks:
            denominator = self._denominator(v)
            if decay:
                torch._foreach_mul_(w, [1 - rates[index] * decay for index in parameters])
            torch._foreach_addcdiv_(w, m, denominator, [-rates[index] for index in parameters])
        return ratios

    def _denominator(self, v: list[Tensor]) -> tuple[Tensor, ...]:
        denominator = torch._foreach_sqrt(v)
        torch._foreach_mul_(denominator, self.scale)
        torch._foreach_add_(denominator, self.shift)
        return denominator

    def _make_blocks(self) -> Iterator[tuple[Any, ...]]:
        """Indices of parameters, and slices of weights, gradients and moments, block by block."""
        limit = _block_size(self.device)
        first, filled = 0, 0
        block: list[tuple[Any, ...]] = []
        for each in self.tensors:
            columns = [each.slices.views(tensor) for tensor in each.whole()]
            for (index, *_), *views in zip(each.slices.slices, *columns, strict=True):
                if block and filled + views[0].numel() > limit:
                    yield tuple(zip(*block, strict=True))
                    filled, block = 0, []
                block.append((first + index, *views))
                filled += views[0].numel()
            first += len(each.slices.flat.names)
        if block:
            yield tuple(zip(*block, strict=True))
