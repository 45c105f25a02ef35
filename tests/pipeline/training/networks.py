"""A small network with weights, biases and LayerNorm, and batches that can be split."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.settings.config import Config
from pipeline.training import batch_split
from pipeline.training import engine as engines
from pipeline.training.lamb import optimizer as lamb
from pipeline.training.lamb.fragments import FlatTensor

WIDTH = 21
"""Odd, so that partitions divide parameters and need padding."""
LR = 0.02


class Network(nn.Module):
    """Classifies a vector; no number of ranks divides its sizes."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, 2 * WIDTH + 1)
        self.norm = nn.LayerNorm(2 * WIDTH + 1)
        self.dropout = nn.Dropout(dropout)
        self.second = nn.Linear(2 * WIDTH + 1, 2 * WIDTH + 1)
        self.last = nn.Linear(2 * WIDTH + 1, 5)

    def forward(self, inputs: Tensor, labels: Tensor) -> Tensor:
        hidden = self.norm(torch.tanh(self.first(inputs.to(self.first.weight.dtype))))
        logits = self.last(torch.tanh(self.second(self.dropout(hidden))))
        return F.cross_entropy(logits.float(), labels)


def build(seed: int = 0, dropout: float = 0.0) -> Network:
    torch.manual_seed(seed)
    return Network(dropout)


def global_batch(step: int, size: int) -> tuple[Tensor, Tensor]:
    """The samples of a step, the same on every rank. [size, WIDTH], [size]"""
    generator = torch.Generator().manual_seed(1000 + step)
    inputs = torch.randn(size, WIDTH, generator=generator)
    return inputs, torch.randint(0, 5, (size,), generator=generator)


def make_engine(
    settings: dict[str, Any],
    global_size: int = 16,
    accumulation: int = 1,
    precision: str = "fp32",
    dropout: float = 0.0,
) -> Any:
    """An engine of the network for this process group; `settings` are those of Config."""
    world_size = torch.distributed.get_world_size()
    micro = global_size // (accumulation * world_size)
    split = batch_split.Split(micro, world_size, accumulation)
    # Otherwise stage 3 would leave parameters as small as these whole on every rank.
    shard_all = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
    engine = {**settings.get("engine", {}), "deepspeed": shard_all}
    config = Config.model_validate({**settings, "engine": engine})
    return engines.initialize(build(dropout=dropout), config, split, precision)


def train(engine: Any, steps: range, global_size: int = 16) -> list[float]:
    """Optimizer steps on the batches with these numbers; returns the global loss of each."""
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    accumulation = engine.gradient_accumulation_steps()
    losses = []
    for step in steps:
        torch.manual_seed(step * world_size + rank)  # of dropout
        inputs, labels = global_batch(step, global_size)
        total = torch.zeros(())
        # Micro-batches are dealt in turn, so that the k-th of all is the same one in any split.
        shares = zip(
            inputs.chunk(accumulation * world_size),
            labels.chunk(accumulation * world_size),
            strict=True,
        )
        for number, (x, y) in enumerate(shares):
            if number % world_size == rank:
                loss = engine(x, y)
                engine.backward(loss)
                engine.step()
                total += loss.detach() / (accumulation * world_size)
        torch.distributed.all_reduce(total)
        losses.append(total.item())
    return losses


def plain_loop(
    precision: str,
    clip: float,
    micro_batches: int = 4,
    loss_scale: float = 1.0,
    decay: float = 0.1,
    adapt: bool = True,
    steps: tuple[int, ...] = (20,),
) -> dict[int, dict[str, Tensor]]:
    """Weights after these numbers of steps on whole parameters in one process.

    Master weights are in fp32, the network is in `precision`, gradients are summed in fp32.
    """
    network, master = build(), build()
    network.to(engines.HALF.get(precision, torch.float32))
    optimizer = lamb.Lamb(lamb.parameter_groups(master, decay), lr=LR)
    for group in optimizer.param_groups:
        group["trust_ratio"] &= adapt
    result = {}
    for step in range(max(steps)):
        inputs, labels = global_batch(step, 16)
        for parameter in master.parameters():
            parameter.grad = torch.zeros_like(parameter)
        parts = zip(inputs.chunk(micro_batches), labels.chunk(micro_batches), strict=True)
        for x, y in parts:
            network.zero_grad()
            (network(x, y) / micro_batches * loss_scale).backward()
            for own, parameter in zip(network.parameters(), master.parameters(), strict=True):
                parameter.grad += own.grad.float() / loss_scale
        if clip:
            nn.utils.clip_grad_norm_(master.parameters(), clip)
        optimizer.step()
        with torch.no_grad():
            for own, parameter in zip(network.parameters(), master.parameters(), strict=True):
                own.copy_(parameter)
        if step + 1 in steps:
            result[step + 1] = {n: p.detach().clone() for n, p in master.named_parameters()}
    return result


def full_state_dict(engine: Any) -> dict[str, Tensor] | None:
    """All weights in fp32 on rank 0, by their Hugging Face names, as DeepSpeed gathers them.

    Every rank must call it. Tied weights appear once, under their first name.
    """
    from deepspeed.utils import safe_get_full_fp32_param

    tensors: dict[str, Tensor] = {}
    for name, parameter in engine.module.named_parameters():
        whole = safe_get_full_fp32_param(parameter)
        if torch.distributed.get_rank() == 0:
            tensors[name.removeprefix("network.")] = whole.detach().to("cpu", copy=True)
    return tensors if torch.distributed.get_rank() == 0 else None


def padding(flat: FlatTensor) -> Tensor:
    """Which elements of a flat tensor belong to no parameter, bool."""
    unused = torch.ones(flat.tensor.numel(), dtype=torch.bool)
    for _, _, offset, length in flat.fragments:
        unused[offset : offset + length] = False
    return unused
