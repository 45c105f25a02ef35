"""LAMB whose trust ratios belong to parameters, also where ZeRO shows it only flat pieces.

You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes",
arXiv 1904.00962, algorithm 2, with bias correction and decoupled decay:

    u = m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + decay * w        w -= lr * r * u

    r = |w| / |u|, or 1 where either is 0, or 1 in a group with `trust_ratio=False`, which makes
    the step AdamW's.

A ZeRO optimizer steps on flat pieces that hold parts of many parameters. So `step` takes squared
norms fragment by fragment, adds them up over the ranks (one all-reduce of 2n numbers for n
parameters), and scales each fragment by its own parameter's ratio.

On a CPU the work is cut into blocks whose temporaries stay in the cache. The update is not kept
between the two passes: to compute it again moves no more memory than to store and load it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.training.fragments import Flat, locate, whole

BLOCK = 1 << 17
"""Elements that a CPU thread takes in one go: with temporaries 3 MiB. Measured: lamb_cost.py."""


class Ratio(NamedTuple):
    """What one step did to one parameter."""

    name: str
    weight_norm: float
    """Of the weights before the step."""
    update_norm: float
    """Of the update before learning rate and trust ratio."""
    trust_ratio: float
    relative_update: float
    """Norm of the change over the norm of the weights."""


class Lamb(torch.optim.Optimizer):
    """LAMB, exact on whole parameters and, once bound, on DeepSpeed's pieces of them.

    Args:
        params: parameters or groups; a group may set its own `lr`, `weight_decay`, `trust_ratio`.
        clamp: bounds of the trust ratio (DeepSpeed's FusedLamb: 0.01 and 10); the paper has none.
        max_gradient_norm: divide all gradients by max(1, norm / max_gradient_norm) first. 1 is
            the pre-normalisation of NVIDIA's LAMB. Under ZeRO the engine's clipping does the same.

    State of each tensor: `exp_avg`, `exp_avg_sq` (in the tensor's dtype and shape), `step` (int),
    the keys that DeepSpeed's universal checkpoints expect.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        clamp: tuple[float, float] | None = None,
        trust_ratio: bool = True,
        max_gradient_norm: float | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "trust_ratio": trust_ratio,
        }
        super().__init__(params, defaults)
        self.clamp = clamp
        self.max_gradient_norm = max_gradient_norm
        self.gradient_norm: Tensor | None = None
        """Of the last step's gradients before they were divided, if `max_gradient_norm` is set."""
        self._cuts: dict[Tensor, _Cut] = {}
        self._device: torch.device | None = None
        self._last: dict[tuple[str, ...], tuple[Tensor, Tensor, float]] = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every tensor that has a gradient; returns what `closure` returns.

        Raises:
            TypeError: for bf16 or fp16 tensors.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        works = [work for group in self.param_groups for work in self._works(group)]
        divisor = self._gradient_divisor(works)
        for work in works:
            work.advance(divisor)
        self._add_up([work for work in works if work.norms is not None])
        for work in works:
            ratios = work.apply(self.clamp)
            if work.norms is not None:
                self._last[work.names] = work.norms, ratios, work.group["lr"]
        return loss

    def ratios(self) -> list[Ratio]:
        """What the last step did to each parameter with a trust ratio; the same on every rank."""
        result = []
        for names, (norms, trust, lr) in self._last.items():
            columns = zip(names, *norms.sqrt().tolist(), trust.tolist(), strict=True)
            for name, weight, update, ratio in columns:
                change = lr * ratio * update / weight if weight else 0.0
                result.append(Ratio(name, weight, update, ratio, change))
        return result

    def _works(self, group: dict[str, Any]) -> list[_Work]:
        """The group's tensors, those together that have made equally many steps."""
        members = []
        for tensor in group["params"]:
            if tensor.grad is None:
                continue
            if tensor.dtype not in (torch.float32, torch.float64):
                raise TypeError(
                    f"LAMB steps on fp32 master weights, not on {tensor.dtype}: "
                    "let DeepSpeed keep them (bf16 or fp16 enabled)"
                )
            if tensor not in self._cuts:
                name = f"parameter {len(self._cuts)}"
                self._cuts[tensor] = _Cut.of(whole(tensor, name))
            state = self.state[tensor]
            if not state:
                _start(tensor, state)
            state["step"] = int(state["step"]) + 1
            members.append(_Member(tensor, self._cuts[tensor], state))
        members.sort(key=_Member.steps)
        return [_Work(group, t, list(same)) for t, same in groupby(members, key=_Member.steps)]

    def _gradient_divisor(self, works: list[_Work]) -> Tensor | None:
        if self.max_gradient_norm is None or not works:
            return None
        gradients: Any = [member.tensor.grad for work in works for member in work.members]
        norms = torch._foreach_norm(gradients)
        self.gradient_norm = torch.linalg.vector_norm(torch.stack(norms))
        # The summand is the one of torch's and DeepSpeed's clipping.
        return ((self.gradient_norm + 1e-6) / self.max_gradient_norm).clamp(min=1.0)

    def _add_up(self, works: list[_Work]) -> None:
        """Sum the squared norms over the ranks that share the parameters: one all-reduce."""
        shared = [work for work in works if work.process_group is not None]
        if not shared:
            return
        squares = torch.cat([work.norms for work in shared], dim=1).to(self._device)  # [2, n]
        torch.distributed.all_reduce(squares, group=shared[0].process_group)
        widths = [len(work.names) for work in shared]
        for work, summed in zip(shared, squares.split(widths, dim=1), strict=True):
            work.norms = summed.to(work.norms.device)


def bind(optimizer: Lamb, engine: Any) -> None:
    """Tell the optimizer of a DeepSpeed engine which parameters its flat tensors hold.

    Raises:
        ConfigError: for settings under which the trust ratios could not be exact.
    """
    flats = locate(engine)
    if optimizer.max_gradient_norm is not None and any(flat.group is not None for flat in flats):
        raise ConfigError(
            "ZeRO shows the optimizer one parameter group at a time, so it cannot take the global "
            "gradient norm: set optim.clip instead of max_gradient_norm, DeepSpeed clips alike"
        )
    optimizer._cuts = {flat.tensor: _Cut.of(flat) for flat in flats}
    optimizer._device = engine.device
    for flat in flats:
        _start(flat.tensor, optimizer.state[flat.tensor])


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: weights; and biases and LayerNorm, with neither decay nor trust ratio."""
    weights: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for parameter in module.parameters():
        if parameter.requires_grad:
            shape = getattr(parameter, "ds_shape", parameter.shape)  # whole, also under ZeRO 3
            (weights if len(shape) > 1 else plain).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": weights, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0, "trust_ratio": False},
    ]
    return [group for group in groups if group["params"]]


def trust_ratios(squares: Tensor, clamp: tuple[float, float] | None = None) -> Tensor:
    """|w| / |u| from squared norms [2, n] of weights and updates; 1 where either is 0. [n]"""
    weights, updates = squares.sqrt()
    known = (weights > 0) & (updates > 0)
    ratios = torch.where(known, weights / updates.where(known, 1.0), 1.0)
    return ratios if clamp is None else ratios.clamp(*clamp)


def _start(tensor: Tensor, state: dict[str, Any]) -> None:
    state["step"] = 0
    state["exp_avg"] = torch.zeros_like(tensor, memory_format=torch.preserve_format)
    state["exp_avg_sq"] = torch.zeros_like(tensor, memory_format=torch.preserve_format)


def _block_size(device: torch.device) -> float:
    """On a GPU one launch for all is best; on a CPU, what the threads' caches hold."""
    return BLOCK * torch.get_num_threads() if device.type == "cpu" else math.inf


class _Cut(NamedTuple):
    """How a flat tensor falls into pieces, each of one parameter and no larger than a block."""

    flat: Flat
    lengths: list[int]
    """Of all parts of the tensor in their order, padding included."""
    places: list[int]
    """Which of those parts are pieces of parameters."""
    indices: list[int]
    """Parameter of each piece."""

    @classmethod
    def of(cls, flat: Flat) -> _Cut:
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

    def pieces(self, tensor: Tensor) -> list[Tensor]:
        """Views of a tensor that is laid out like `flat.tensor`."""
        if len(self.lengths) == 1:
            return [tensor] if self.places else []
        parts = tensor.reshape(-1).split_with_sizes(self.lengths)
        return [parts[place] for place in self.places]


class _Member(NamedTuple):
    """A tensor that takes part in a step."""

    tensor: Tensor
    cut: _Cut
    state: dict[str, Any]

    def steps(self) -> int:
        return self.state["step"]

    def column(self, kind: str) -> list[Tensor]:
        if kind == "weights":
            return self.cut.pieces(self.tensor)
        return self.cut.pieces(self.tensor.grad if kind == "gradient" else self.state[kind])  # type: ignore[arg-type]


class _Work:
    """A step of one parameter group: `advance` the moments and take norms, then `apply`."""

    def __init__(self, group: dict[str, Any], step: int, members: list[_Member]) -> None:
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
