"""Where each parameter's fp32 master weights lie under ZeRO.

DeepSpeed hands an optimizer flat tensors: one piece per parameter group and rank under stages 1
and 2, one per sub-group and rank under stage 3, and whole parameters under stage 0. What belongs
to which parameter is told here, for whoever needs parameters rather than pieces: the optimizer's
norms, and checkpoints that move to another number of workers or another stage.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipeline.errors import ConfigError


class Fragment(NamedTuple):
    """A run of elements of one parameter in a flat tensor of this rank."""

    parameter: int
    """Which of the flat tensor's parameters (`Flat.names`)."""
    start: int
    """First element of the (flattened) parameter that lies here."""
    offset: int
    """Where it lies in the flat tensor."""
    length: int


class Flat(NamedTuple):
    """What the optimizer steps on: a tensor of master weights, and the parameters in it."""

    tensor: Tensor
    names: tuple[str, ...]
    """All parameters that the ranks hold together in this piece, the same list on every rank."""
    shapes: tuple[torch.Size, ...]
    """Their whole shapes."""
    fragments: tuple[Fragment, ...]
    """This rank's part of them; elements outside are padding."""
    group: Any = None
    """Process group of the ranks that share the parameters; None where each holds them whole."""

    def fill(self, target: Tensor, read: Callable[[str], Tensor]) -> None:
        """Copy this rank's part of whole parameters, read by name, into one like `tensor`."""
        for number, start, offset, length in self.fragments:
            part = read(self.names[number]).reshape(-1).narrow(0, start, length)
            target.view(-1).narrow(0, offset, length).copy_(part)


def locate(engine: Any) -> list[Flat]:
    """The flat tensors of a DeepSpeed engine, in the order in which its optimizer steps on them.

    Raises:
        ConfigError: for DeepSpeed settings under which the answer would be wrong.
    """
    zero = engine.optimizer
    names = {parameter: name for name, parameter in engine.module.named_parameters()}
    if getattr(zero, "round_robin_gradients", False):
        # It reorders the flat tensor without telling the mapping.
        raise ConfigError("DeepSpeed's round_robin_gradients hides where parameters lie; unset it")
    if getattr(zero, "swap_optimizer", False):
        raise ConfigError("optimizer state on NVMe is not supported; offload it to the CPU")
    if hasattr(zero, "fp32_partitioned_groups_flat"):  # stage 3
        flats = zip(zero.fp32_partitioned_groups_flat, zero.fp16_groups, strict=True)
        return [_partitioned(zero, flat, group, names) for flat, group in flats]
    if hasattr(zero, "single_partition_of_fp32_groups"):  # stages 1 and 2
        flats = zip(zero.single_partition_of_fp32_groups, zero.bit16_groups, strict=True)
        return [_mapped(zero, flat, group, names) for flat, group in flats]
    if hasattr(zero, "fp32_groups_flat_partition"):  # stage 1, bf16 with fp32 gradients
        flats = zip(zero.fp32_groups_flat_partition, zero.bf16_groups, strict=True)
        return [_mapped(zero, flat, group, names) for flat, group in flats]
    parameters = [p for group in zero.param_groups for p in group["params"]]
    return [whole(parameter, names[parameter]) for parameter in parameters]


def whole(tensor: Tensor, name: str) -> Flat:
    """A parameter that nobody partitions."""
    return Flat(tensor, (name,), (tensor.shape,), (Fragment(0, 0, 0, tensor.numel()),))


def _mapped(zero: Any, flat: Tensor, parameters: list[Tensor], names: dict[Tensor, str]) -> Flat:
    """Stages 1 and 2: DeepSpeed keeps the addresses, for its own checkpoints."""
    fragments = []
    for index, parameter in enumerate(parameters):
        mapping = parameter._hp_mapping  # type: ignore[attr-defined]
        if mapping is not None:
            ours, theirs = mapping.hp_fragment_address, mapping.lp_fragment_address
            fragments.append(Fragment(index, theirs.start, ours.start, ours.numel))
    return Flat(
        flat,
        tuple(names[parameter] for parameter in parameters),
        tuple(parameter.shape for parameter in parameters),
        tuple(fragments),
        parameters[0]._dp_group,  # type: ignore[attr-defined]
    )


def _partitioned(zero: Any, flat: Tensor, parameters: list[Any], names: dict[Any, str]) -> Flat:
    """Stage 3: every parameter is cut into equal parts, the last one padded with garbage."""
    group = parameters[0].ds_process_group
    rank = torch.distributed.get_rank(group)
    fragments, offset = [], 0
    for index, parameter in enumerate(parameters):
        part = parameter.partition_numel()
        start = part * rank
        length = max(0, min(part, parameter.ds_numel - start))
        if length:
            fragments.append(Fragment(index, start, offset, length))
        offset += part
    return Flat(
        flat,
        tuple(names[parameter] for parameter in parameters),
        tuple(torch.Size(parameter.ds_shape) for parameter in parameters),
        tuple(fragments),
        group,
    )
