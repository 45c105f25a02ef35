"""LAMB whose trust ratios belong to parameters, also where ZeRO shows it only flat pieces.

You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes",
arXiv 1904.00962, algorithm 2, with bias correction and decoupled decay:

    u = m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + decay * w        w -= lr * r * u

    r = |w| / |u|, or 1 where either is 0, or 1 in a group with `trust_ratio=False`, which makes
    the step AdamW's.

A ZeRO optimizer steps on flat pieces that hold parts of many parameters. So `step` takes squared
norms fragment by fragment, adds them up over the ranks (one all-reduce of 2n numbers for n
parameters), and scales each fragment by its own parameter's ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.training.lamb.fragments import locate, whole
from pipeline.training.lamb.steps import Cut, Member, Work


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
        self._cuts: dict[Tensor, Cut] = {}
        self._grids: dict[tuple[str, ...], Any] = {}
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

    def _works(self, group: dict[str, Any]) -> list[Work]:
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
                self._cuts[tensor] = Cut.of(whole(tensor, name))
            state = self.state[tensor]
            if not state:
                _start(tensor, state)
            state["step"] = int(state["step"]) + 1
            members.append(Member(tensor, self._cuts[tensor], state))
        members.sort(key=Member.steps)
        return [self._work(group, t, list(same)) for t, same in groupby(members, key=Member.steps)]

    def _work(self, group: dict[str, Any], step: int, members: list[Member]) -> Work:
        """By kernels where there is a GPU, and Triton with it."""
        kernels = _kernels(members[0].tensor.device)
        if kernels is None or not kernels.suits(members):
            return Work(group, step, members)
        names = tuple(name for member in members for name in member.cut.flat.names)
        if names not in self._grids:
            self._grids[names] = kernels.Grid(members, members[0].tensor.device)
        return kernels.KernelWork(group, step, members, self._grids[names])

    def _gradient_divisor(self, works: list[Work]) -> Tensor | None:
        if self.max_gradient_norm is None or not works:
            return None
        gradients: Any = [member.tensor.grad for work in works for member in work.members]
        norms = torch._foreach_norm(gradients)
        self.gradient_norm = torch.linalg.vector_norm(torch.stack(norms))
        # The summand is the one of torch's and DeepSpeed's clipping.
        return ((self.gradient_norm + 1e-6) / self.max_gradient_norm).clamp(min=1.0)

    def _add_up(self, works: list[Work]) -> None:
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
    optimizer._cuts = {flat.tensor: Cut.of(flat) for flat in flats}
    optimizer._grids.clear()
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


def _kernels(device: torch.device) -> Any:
    """The module `lamb_kernels`, or None where it has nothing to run on."""
    if device.type != "cuda":
        return None
    try:
        from pipeline.training.lamb import kernels as lamb_kernels
    except ImportError:
        return None
    return lamb_kernels


def _start(tensor: Tensor, state: dict[str, Any]) -> None:
    state["step"] = 0
    state["exp_avg"] = torch.zeros_like(tensor, memory_format=torch.preserve_format)
    state["exp_avg_sq"] = torch.zeros_like(tensor, memory_format=torch.preserve_format)
