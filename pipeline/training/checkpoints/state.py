"""State of a run: copy it, and restore it on any number of workers and at any ZeRO stage.

Each rank stores the parts of the master weights and moments that it holds, in fp32. To restore
them, each rank copies its own parts from all files. So the layout that saved a checkpoint does not
matter, and the same layout continues bit for bit. No file is a pickle.
"""

from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.errors import CheckpointError
from pipeline.training import engine as engines
from pipeline.training.checkpoints import files, tensors
from pipeline.training.lamb.fragments import FlatTensor, locate
from pipeline.training.ranks import on_rank_zero

COUNTERS = ("global_steps", "global_samples", "skipped_steps")
"""DeepSpeed's own."""
EXPORTED = "model.safetensors"
"""File of weights in an export."""


class HostCopy:
    """A copy of this rank's state in host memory, into the same memory each time."""

    def __init__(self) -> None:
        self._buffers: list[Tensor] = []

    def take(self, engine: Any) -> tuple[dict[str, Tensor], dict[str, list[int]]]:
        """Copy the state of an engine that is between two optimizer steps.

        Returns:
            this rank's parts and the shapes of their parameters, as `tensors.write` takes them.
            The parts are valid until the next call.
        """
        optimizer = engines.optimizer_of(engine)
        held = [(flat, kind) for flat in locate(engine) for kind in tensors.KINDS]
        sources = [_state_of(optimizer, flat, kind) for flat, kind in held]
        if [source.shape for source in sources] != [buffer.shape for buffer in self._buffers]:
            self._buffers = [
                torch.empty(source.shape, pin_memory=source.is_cuda) for source in sources
            ]
        for buffer, source in zip(self._buffers, sources, strict=True):
            buffer.copy_(source, non_blocking=True)
        if engine.device.type == "cuda":
            torch.cuda.synchronize(engine.device)
        parts: dict[str, Tensor] = {}
        shapes: dict[str, list[int]] = {}
        for buffer, (flat, kind) in zip(self._buffers, held, strict=True):
            for index, start, offset, length in flat.fragments:
                name = _public(flat.names[index])
                shapes[name] = list(flat.shapes[index])
                part = buffer.view(-1).narrow(0, offset, length)
                parts[tensors.name_of(kind, name, start)] = part
        return parts, shapes


def restore(engine: Any, path: Path) -> dict[str, Any]:
    """Load weights, moments and loss scale into a fresh engine; every rank calls it.

    The checkpoint must have been verified. Hyperparameters are those of the engine.

    Returns:
        the loop's state that was saved with it.

    Raises:
        CheckpointError: the checkpoint is of another network.
    """
    saved, optimizer = files.read_counters(path), engines.optimizer_of(engine)
    flats = locate(engine)
    with tensors.Parameters(path) as stored:
        shapes = {
            _public(name): list(shape)
            for flat in flats
            for name, shape in zip(flat.names, flat.shapes, strict=True)
        }
        names = {**stored.shapes, **shapes}
        _refuse(path, [name for name in names if stored.shapes.get(name) != shapes.get(name)])
        for flat in flats:
            for kind in tensors.KINDS:
                target = _state_of(optimizer, flat, kind).view(-1)
                for index, start, offset, length in flat.fragments:
                    part = stored.read(kind, _public(flat.names[index]), start, length)
                    target.narrow(0, offset, length).copy_(part)
            optimizer.state[flat.tensor]["step"] = saved["optimizer_step"]
    engines.publish_master_weights(engine)
    for counter in COUNTERS:
        setattr(engine, counter, saved[counter])
    scaler = getattr(engine.optimizer, "loss_scaler", None)
    if scaler is not None and saved["precision"] == str(engine.get_data_types()[0]):
        vars(scaler).update(saved["scaler"])
    return files.read_state(path)


def begin_from(engine: Any, path: Path) -> dict[str, Any]:
    """Start a new run from the full state of another one; every rank calls it.

    The moments and their bias correction continue; steps are counted from 0.

    Returns:
        the other run's state.

    Raises:
        CheckpointError: as `restore`, or `path` is no checkpoint, incomplete or damaged.
    """
    files.require_state(path)
    with files.in_use(path):
        on_rank_zero(lambda: files.verify(path))
        state = restore(engine, path)
    for counter in COUNTERS:
        setattr(engine, counter, 0)
    return state


def load_weights(network: nn.Module, path: Path) -> None:
    """Load a network's weights from a checkpoint or an export.

    Raises:
        CheckpointError: there are none, or they are of another network.
    """
    weights = read_weights(path)
    own = network.state_dict()
    wrong = [name for name in weights if name not in own or own[name].shape != weights[name].shape]
    # The file holds tied weights once.
    given = {own[name].data_ptr(): weight for name, weight in weights.items() if name in own}
    wrong += [name for name, weight in own.items() if weight.data_ptr() not in given]
    _refuse(path, wrong)
    network.load_state_dict({name: given[weight.data_ptr()] for name, weight in own.items()})


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint or an export, by their Hugging Face names; tied ones once.

    Raises:
        CheckpointError: there are none, or the checkpoint is incomplete or damaged.
    """
    if (path / EXPORTED).exists() or not (path / files.STATE).exists():
        try:
            return load_file(path / EXPORTED)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{path} has no readable {EXPORTED}: {error}; train.init_from names a "
                "checkpoint_… folder or an export"
            ) from None
    with files.in_use(path):
        files.verify(path)
        with tensors.Parameters(path) as stored:
            return {
                name: stored.read("weights", name).view(shape)
                for name, shape in stored.shapes.items()
            }


def counters(engine: Any) -> dict[str, Any]:
    """Numbers that belong to the state, and the number of workers."""
    states = engines.optimizer_of(engine).state.values()
    scaler = getattr(engine.optimizer, "loss_scaler", None) or Namespace()
    numbers = {key: value for key, value in vars(scaler).items() if isinstance(value, int | float)}
    return {
        "workers": torch.distributed.get_world_size(),
        "precision": str(engine.get_data_types()[0]),
        "optimizer_step": max(state["step"] for state in states),
        **{counter: getattr(engine, counter) for counter in COUNTERS},
        "scaler": numbers,
    }


def _state_of(optimizer: Any, flat: FlatTensor, kind: str) -> Tensor:
    """Master weights or a moment of a flat tensor, laid out like it."""
    return flat.tensor.detach() if kind == "weights" else optimizer.state[flat.tensor][kind]


def _public(name: str) -> str:
    """A parameter's Hugging Face name, by which files know it."""
    return name.removeprefix("network.")


def _refuse(path: Path, wrong: list[str]) -> None:
    if wrong:
        raise CheckpointError(f"{path} is of another network; these weights differ: {wrong}")
