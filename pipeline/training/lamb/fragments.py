"""Where the fp32 master weights of each parameter are stored under ZeRO.

DeepSpeed hands an optimizer flat tensors: one per parameter group and rank at stages 1 and 2, one
per sub-group and rank at stage 3. A flat tensor holds fragments of many parameters. The
optimizer's norms, and checkpoints that move to another number of workers or another stage, need to
know which elements belong to which parameter.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipeline.errors import ConfigError


class Fragment(NamedTuple):
    """Consecutive elements of one parameter in a flat tensor of this rank."""

    parameter: int
    """Index into the flat tensor's parameters (`FlatTensor.names`)."""
    start: int
    """Index of the first element in the flattened parameter."""
    offset: int
    """Index of the first element in the flat tensor."""
    length: int
    """Number of elements."""


class FlatTensor(NamedTuple):
    """A tensor that the optimizer steps on, and the parameters in it."""

    tensor: Tensor
    """Master weights. Elements outside all fragments are padding and may hold anything."""
    names: tuple[str, ...]
    """All parameters that the ranks hold together in it, the same list on every rank."""
    shapes: tuple[torch.Size, ...]
    """Shapes of these parameters."""
    fragments: tuple[Fragment, ...]
    """This rank's part of them."""
    sharded: bool = False
    """Whether other ranks hold the other fragments of its parameters."""

    def fill(self, target: Tensor, read: Callable[[str], Tensor]) -> None:
        """Copy this rank's fragments of whole parameters into a tensor laid out like `tensor`.

        Args:
            target: master weights, or a moment.
            read: returns a whole parameter by its name, in any shape.
        """
        for index, start, offset, length in self.fragments:
            part = read(self.names[index]).reshape(-1).narrow(0, start, length)
            target.view(-1).narrow(0, offset, length).copy_(part)


def locate(engine: Any) -> list[FlatTensor]:
    """The flat tensors of a DeepSpeed engine, in the order in which its optimizer steps on them.

    Raises:
        ConfigError: DeepSpeed runs with settings under which the answer would be wrong.
    """
    zero = engine.optimizer
    if getattr(zero, "round_robin_gradients", False):
        # It reorders the flat tensor without updating the mapping.
        raise ConfigError("DeepSpeed's round_robin_gradients hides where parameters are; unset it")
    if getattr(zero, "swap_optimizer", False):
        raise ConfigError("optimizer state on NVMe is not supported; offload it to the CPU")
    if hasattr(zero, "fp32_partitioned_groups_flat"):  # stage 3
        flats, groups = zero.fp32_partitioned_groups_flat, zero.fp16_groups
    elif hasattr(zero, "single_partition_of_fp32_groups"):  # stages 1 and 2
        flats, groups = zero.single_partition_of_fp32_groups, zero.bit16_groups
    else:  # BF16_Optimizer: stage 1 in bf16 with fp32 gradients
        flats, groups = zero.fp32_groups_flat_partition, zero.bf16_groups
    names = {parameter: name for name, parameter in engine.module.named_parameters()}
    return [
        FlatTensor(
            flat,
            tuple(names[parameter] for parameter in group),
            tuple(torch.Size(getattr(p, "ds_shape", p.shape)) for p in group),
            tuple(_stage_3(group) if hasattr(group[0], "ds_id") else _stages_1_and_2(group)),
            sharded=True,
        )
        for flat, group in zip(flats, groups, strict=True)
    ]


def whole(tensor: Tensor, name: str) -> FlatTensor:
    """A parameter that is not partitioned."""
    return FlatTensor(tensor, (name,), (tensor.shape,), (Fragment(0, 0, 0, tensor.numel()),))


def _stages_1_and_2(parameters: list[Any]) -> Iterator[Fragment]:
    """DeepSpeed records the addresses for its own checkpoints."""
    for index, parameter in enumerate(parameters):
        mapping = parameter._hp_mapping
        if mapping is not None:
            in_flat, in_parameter = mapping.hp_fragment_address, mapping.lp_fragment_address
            yield Fragment(index, in_parameter.start, in_flat.start, in_flat.numel)


def _stage_3(parameters: list[Any]) -> Iterator[Fragment]:
    """Every parameter is split into equal parts; the last one may end with padding."""
    rank, offset = torch.distributed.get_rank(), 0
    for index, parameter in enumerate(parameters):
        size = parameter.partition_numel()
        length = max(0, min(size, parameter.ds_numel - size * rank))
        if length:
            yield Fragment(index, size * rank, offset, length)
        offset += size
