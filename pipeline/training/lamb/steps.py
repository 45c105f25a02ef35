"""A LAMB step of one parameter group, on the pieces into which its tensors fall.

On a CPU the work is cut into blocks whose temporaries stay in the cache. The update is not kept
between the two passes: to compute it again moves no more memory than to store and load it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipeline.training.lamb.fragments import Flat

BLOCK = 1 << 17
"""Elements that a CPU thread takes in one go: with temporaries 3 MiB. Measured: lamb_cost.py."""


def trust_ratios(squares: Tensor, clamp: tuple[float, float] | None = None) -> Tensor:
    """|w| / |u| from squared norms [2, n] of weights and updates; 1 where either is 0. [n]"""
    weights, updates = squares.sqrt()
    known = (weights > 0) & (updates > 0)
    ratios = torch.where(known, weights / updates.where(known, 1.0), 1.0)
    return ratios if clamp is None else ratios.clamp(*clamp)


def _block_size(device: torch.device) -> float:
    """On a GPU one launch for all is best; on a CPU, what the threads' caches hold."""
    return BLOCK * torch.get_num_threads() if device.type == "cpu" else math.inf


class Cut(NamedTuple):
    """How a flat tensor falls into pieces, each of one parameter and no larger than a block."""

    flat: Flat
    lengths: list[int]
    """Of all parts of the tensor in their order, padding included."""
    places: list[int]
    """Which of those parts are pieces of parameters."""
    indices: list[int]
    """Parameter of each piece."""

    @classmethod
    def of(cls, flat: Flat) -> Cut:
        cut, end = cls(flat, [], [], []), 0
        block = _block_size(flat.tensor.device)
        for fragment in sorted(flat.fragments, key=lambda fragment: fragment.offset):
            cut.lengths.extend([fragment.offset - end] if fragment.offset > end else [])
            # A tensor whose elements do not lie in a row is one piece.
            dense = flat.tensor.is_contiguous() and block < fragment.length
            longest = int(block) if dense else fragment.length
            for start in range(0, fragment.length, longest):
                cut.places.append(len(cut.lengths))
                cut.indices.append(fragment.parameter)
                cut.lengths.append(min(longest, fragment.length - start))
            end = fragment.offset + fragment.length
        cut.lengths.extend([flat.tensor.numel() - end] if flat.tensor.numel() > end else [])
        return cut

    def runs(self) -> Iterator[tuple[int, int, int]]:
        """Of each piece the parameter, the first element and how many there are."""
        offsets = [0, *accumulate(self.lengths)]
        for index, place in zip(self.indices, self.places, strict=True):
            yield index, offsets[place], self.lengths[place]

    def pieces(self, tensor: Tensor) -> list[Tensor]:
        """Views of a tensor that is laid out like `flat.tensor`."""
        if len(self.lengths) == 1:
            return [tensor] if self.places else []
        parts = tensor.reshape(-1).split_with_sizes(self.lengths)
        return [parts[place] for place in self.places]


class Member(NamedTuple):
    """A tensor that takes part in a step."""

    tensor: Tensor
    cut: Cut
    state: dict[str, Any]

    def steps(self) -> int:
        return self.state["step"]

    def column(self, kind: str) -> list[Tensor]:
        if kind == "weights":
            return self.cut.pieces(self.tensor)
        return self.cut.pieces(self.tensor.grad if kind == "gradient" else self.state[kind])  # type: ignore[arg-type]


class Work:
    """A step of one parameter group: `advance` the moments and take norms, then `apply`."""

    def __init__(self, group: dict[str, Any], step: int, members: list[Member]) -> None:
        self.group, self.members = group, members
        self.names = tuple(name for member in members for name in member.cut.flat.names)
        self.process_group = members[0].cut.flat.group
        self.norms: Any = None
        """Squared norms of weights and updates, [2, n]; over all ranks once they are added up."""
        self.device = members[0].tensor.device
        if group["trust_ratio"]:
            self.norms = torch.zeros(2, len(self.names), dtype=torch.float64, device=self.device)
        beta1, beta2 = group["betas"]
        correction1, correction2 = 1 - beta1**step, 1 - beta2**step
        # m / c1 / (sqrt(v / c2) + eps) = m / (sqrt(v) * scale + shift)
        self.scale = correction1 / math.sqrt(correction2)
        self.shift = correction1 * group["eps"]

    def advance(self, divisor: Tensor | None) -> None:
        """Update the moments; with a trust ratio, sum squares of weights and updates."""
        beta1, beta2 = self.group["betas"]
        decay = self.group["weight_decay"]
        for indices, w, g, m, v in self._blocks("weights", "gradient", "exp_avg", "exp_avg_sq"):
            if divisor is not None:
                g = torch._foreach_div(g, divisor)
            torch._foreach_lerp_(m, g, 1 - beta1)
            torch._foreach_mul_(v, beta2)
            torch._foreach_addcmul_(v, g, g, 1 - beta2)
            if self.norms is None:
                continue
            update = torch._foreach_div(m, self._denominator(v))
            if decay:
                torch._foreach_add_(update, w, alpha=decay)
            norms = torch.stack([*torch._foreach_norm(w), *torch._foreach_norm(update)])
            places = torch.tensor(indices, device=self.device)
            self.norms.index_add_(1, places, norms.double().square_().view(2, -1))

    def apply(self, clamp: tuple[float, float] | None) -> Any:
        """Move the weights; returns the trust ratio of each parameter, [n], if it has one."""
        lr, decay = self.group["lr"], self.group["weight_decay"]
        ratios = None if self.norms is None else trust_ratios(self.norms, clamp)
        rates = [lr] * len(self.names) if ratios is None else (lr * ratios).tolist()
        for indices, w, m, v in self._blocks("weights", "exp_avg", "exp_avg_sq"):
            denominator = self._denominator(v)
            if decay:
                torch._foreach_mul_(w, [1 - rates[index] * decay for index in indices])
            torch._foreach_addcdiv_(w, m, denominator, [-rates[index] for index in indices])
        return ratios

    def _denominator(self, v: list[Tensor]) -> tuple[Tensor, ...]:
        denominator = torch._foreach_sqrt(v)
        torch._foreach_mul_(denominator, self.scale)
        torch._foreach_add_(denominator, self.shift)
        return denominator

    def _blocks(self, *kinds: str) -> Iterator[tuple[Any, ...]]:
        """Parameter indices and pieces of the named tensors, as many at a time as fit a block."""
        limit = _block_size(self.device)
        first, filled = 0, 0
        block: list[tuple[Any, ...]] = []
        for member in self.members:
            columns = [member.column(kind) for kind in kinds]
            for index, *pieces in zip(member.cut.indices, *columns, strict=True):
                if block and filled + pieces[0].numel() > limit:
                    yield tuple(zip(*block, strict=True))
                    filled, block = 0, []
                block.append((first + index, *pieces))
                filled += pieces[0].numel()
            first += len(member.cut.flat.names)
        if block:
            yield tuple(zip(*block, strict=True))
