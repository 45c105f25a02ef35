"""LAMB with exact trust ratios, also where ZeRO shards the parameters.

You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes",
arXiv 1904.00962, algorithm 2, with bias correction and decoupled decay:

    u = m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + decay * w        w -= lr * r * u

    r = |w| / |u|, or 1 where either is 0. A group with `trust_ratio=False` has r = 1: AdamW.

A ZeRO optimizer steps on flat tensors that hold fragments of many parameters. So `step` takes the
squared norms of each fragment, adds them up over the ranks (one all-reduce of 2n numbers for n
parameters), and scales each fragment by the ratio of its own parameter.
"""

from collections.abc import Iterable
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pipeline.training.lamb.fragments import locate, whole
from pipeline.training.lamb.steps import GroupStep, Slices, SteppedTensor


class Ratio(NamedTuple):
    """What one step computed for one parameter."""

    name: str
    weight_norm: float
    """Norm of the weights before the step."""
    update_norm: float
    """Norm of the update before learning rate and trust ratio."""
    trust_ratio: float


class Lamb(torch.optim.Optimizer):
    """LAMB on whole parameters and, once bound, on DeepSpeed's flat tensors.

    Args:
        params: parameters or groups; a group may set its own `lr`, `weight_decay`, `trust_ratio`.

    State of each tensor: `exp_avg`, `exp_avg_sq` (in the tensor's dtype and shape), `step` (int).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
    ) -> None:
        defaults = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, trust_ratio=True)
        super().__init__(params, defaults)
        self._slices: dict[Tensor, Slices] = {}
        self._tables: dict[tuple[str, ...], Any] = {}
        self._device: torch.device | None = None
        self._last: dict[tuple[str, ...], tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One update of every tensor that has a gradient.

        Raises:
            TypeError: a tensor is bf16 or fp16.
        """
        steps = [step for group in self.param_groups for step in self._steps(group)]
        for step in steps:
            step.update_moments()
        self._sum_over_ranks(steps)
        for step in steps:
            ratios = step.apply()
            if ratios is not None:
                self._last[step.names] = step.squares, ratios

    def ratios(self) -> list[Ratio]:
        """Of the last step, for each parameter with a trust ratio; the same on every rank."""
        result: list[Ratio] = []
        for names, (squares, ratios) in self._last.items():
            columns = zip(names, *squares.sqrt().tolist(), ratios.tolist(), strict=True)
            result.extend(Ratio(*column) for column in columns)
        return result

    def _steps(self, group: dict[str, Any]) -> list[GroupStep]:
        """Steps of the group's tensors; tensors that have made equally many share one."""
        tensors = []
        for tensor in group["params"]:
            if tensor.grad is None:
                continue
            if tensor.dtype not in (torch.float32, torch.float64):
                raise TypeError(
                    f"LAMB steps on fp32 master weights, not on {tensor.dtype}: "
                    "let DeepSpeed keep them (bf16 or fp16 enabled)"
                )
            if tensor not in self._slices:
                name = f"parameter {len(self._slices)}"
                self._slices[tensor] = Slices.of(whole(tensor, name))
            state = self.state[tensor]
            if not state:
                _initialize(tensor, state)
            state["step"] = int(state["step"]) + 1
            tensors.append(SteppedTensor(tensor, self._slices[tensor], state))
        tensors.sort(key=SteppedTensor.steps)
        alike = groupby(tensors, key=SteppedTensor.steps)
        return [self._step(group, number, list(same)) for number, same in alike]

    def _step(self, group: dict[str, Any], number: int, tensors: list[SteppedTensor]) -> GroupStep:
        """Triton kernels on a GPU, else torch's operators."""
        kernels = _kernels(tensors[0].tensor.device)
        if kernels is None or not kernels.accepts(tensors):
            return GroupStep(group, number, tensors)
        names = tuple(name for each in tensors for name in each.slices.flat.names)
        if names not in self._tables:
            self._tables[names] = kernels.Tables(tensors, tensors[0].tensor.device)
        return kernels.KernelStep(group, number, tensors, self._tables[names])

    def _sum_over_ranks(self, steps: list[GroupStep]) -> None:
        """Add the squared norms up over the ranks that share the parameters: one all-reduce."""
        sharded = [step for step in steps if step.sharded and step.squares is not None]
        if not sharded:
            return
        squares = torch.cat([step.squares for step in sharded], dim=1).to(self._device)  # [2, n]
        torch.distributed.all_reduce(squares)
        widths = [len(step.names) for step in sharded]
        for step, summed in zip(sharded, squares.split(widths, dim=1), strict=True):
            step.squares = summed.to(step.squares.device)


def bind(optimizer: Lamb, engine: Any) -> None:
    """Tell the optimizer of a DeepSpeed engine which parameters its flat tensors hold.

    Raises:
        ConfigError: settings under which the trust ratios could not be exact.
    """
    flats = locate(engine)
    optimizer._slices = {flat.tensor: Slices.of(flat) for flat in flats}
    optimizer._tables.clear()
    optimizer._device = engine.device
    for flat in flats:
        _initialize(flat.tensor, optimizer.state[flat.tensor])


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: weights; and biases and LayerNorm, with neither decay nor trust ratio."""
    weights: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for parameter in module.parameters():
        if parameter.requires_grad:
            shape = getattr(parameter, "ds_shape", parameter.shape)  # whole, also under ZeRO-3
            (weights if len(shape) > 1 else vectors).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": weights, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0, "trust_ratio": False},
    ]
    return [group for group in groups if group["params"]]


def _kernels(device: torch.device) -> Any:
    """The module of the Triton kernels, or None without a GPU."""
    if device.type != "cuda":
        return None
    from pipeline.training.lamb import kernels

    return kernels


def _initialize(tensor: Tensor, state: dict[str, Any]) -> None:
    state["step"] = 0
    state["exp_avg"] = torch.zeros_like(tensor, memory_format=torch.preserve_format)
    state["exp_avg_sq"] = torch.zeros_like(tensor, memory_format=torch.preserve_format)
