"""State of a run: save it, and restore it on any number of workers and at any ZeRO stage.

Weights and moments are gathered and stored as whole fp32 tensors, in safetensors files. To restore
them, each rank copies its own fragments. So the layout that saved a checkpoint does not matter, and
the same layout continues bit for bit. No file is a pickle.
"""

from __future__ import annotations

import json
import logging
import shutil
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from tenacity import Retrying, before_sleep_log, retry_if_exception_type, stop_after_delay
from tenacity.wait import wait_exponential
from torch import nn

from pipeline.errors import CheckpointError, NezhaError
from pipeline.training import engine as engines
from pipeline.training.checkpoints import files
from pipeline.training.lamb.fragments import FlatTensor, locate

COUNTERS = ("global_steps", "global_samples", "skipped_steps")
"""DeepSpeed's own."""
STORAGE_SECONDS = 120.0
"""How long a checkpoint is tried again on a storage that refuses it, before the run stops."""

T = TypeVar("T")
logger = logging.getLogger(__name__)


def save(engine: Any, folder: Path, step: int, state: dict[str, Any], config_yaml: str) -> Path:
    """Write `folder/checkpoint_<step>`; every rank calls it and gets the path when it is complete.

    Args:
        engine: the DeepSpeed engine, between two optimizer steps.
        folder: a folder that all ranks see.
        step: optimizer steps made.
        state: what `files.read_state` returns later; must fit JSON.
        config_yaml: the resolved settings.

    Raises:
        CheckpointError: it could not be written within `STORAGE_SECONDS`; the earlier ones are
            whole.
    """
    path = folder / f"checkpoint_{step:06d}"
    temporary = folder / f".{path.name}.tmp"

    def make_folder() -> None:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)

    on_storage(make_folder)
    for name, key in files.TENSORS.items():
        tensors: Any = engines.full_state_dict(engine, key)
        on_storage(partial(save_file, tensors, temporary / name, {"format": "pt"}))

    def commit() -> None:
        content = {**state, "engine": _counters(engine)}
        text = json.dumps(content, indent=2, ensure_ascii=False)
        files.commit(temporary, path, {files.STATE: text, files.CONFIG: config_yaml})

    on_storage(commit)
    return path


def restore(engine: Any, path: Path) -> dict[str, Any]:
    """Load weights, moments and loss scale into a fresh engine; every rank calls it.

    The checkpoint must have been verified. Hyperparameters are those of the engine.

    Returns:
        the state that was given to `save`.

    Raises:
        CheckpointError: the checkpoint is of another network.
    """
    saved, optimizer = files.read_counters(path), engines.optimizer_of(engine)
    flats = locate(engine)
    _compare_shapes(path, flats)
    for file, key in files.TENSORS.items():
        # Memory-mapped: a rank reads only its own fragments from the disk.
        with safe_open(path / file, framework="pt") as tensors:
            for flat in flats:
                target = optimizer.state[flat.tensor][key] if key else flat.tensor.detach()
                flat.fill(target, lambda name, of=tensors: of.get_tensor(_public(name)))  # type: ignore[misc]
    for flat in flats:
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
    if not (path / files.STATE).exists():
        raise CheckpointError(
            f"{path} holds no optimizer state; train.init_state=full and branch need a "
            "checkpoint_… folder, an export starts with train.init_state=weights"
        )
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
    try:
        weights = load_file(path / files.WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} has no readable {files.WEIGHTS}: {error}; train.init_from names a "
            "checkpoint_… folder or an export"
        ) from None
    own = network.state_dict()
    wrong = [name for name in weights if name not in own or own[name].shape != weights[name].shape]
    # The file holds tied weights once.
    given = {own[name].data_ptr(): weight for name, weight in weights.items() if name in own}
    wrong += [name for name, weight in own.items() if weight.data_ptr() not in given]
    _refuse(path, wrong)
    network.load_state_dict({name: given[weight.data_ptr()] for name, weight in own.items()})


def _public(name: str) -> str:
    """A parameter's Hugging Face name, by which files know it."""
    return name.removeprefix("network.")


def _compare_shapes(path: Path, flats: list[FlatTensor]) -> None:
    """Raise a CheckpointError if the parameters are not those of the flat tensors."""
    with safe_open(path / "exp_avg.safetensors", framework="pt") as tensors:
        stored = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
    shapes = {
        _public(name): list(shape)
        for flat in flats
        for name, shape in zip(flat.names, flat.shapes, strict=True)
    }
    wrong = [name for name in {**stored, **shapes} if stored.get(name) != shapes.get(name)]
    _refuse(path, wrong)


def _refuse(path: Path, wrong: list[str]) -> None:
    if wrong:
        raise CheckpointError(f"{path} is of another network; these weights differ: {wrong}")


def on_rank_zero(action: Callable[[], T]) -> T:
    """Rank 0 acts while the others wait; every rank gets what it returns, or raises its error.

    Raises:
        NezhaError: rank 0 raised it, or raised an error of another kind, which it then names.
    """
    outcome: list[Any] = [None, None]
    if torch.distributed.get_rank() == 0:
        try:
            outcome[0] = action()
        except NezhaError as error:
            outcome[1] = error
        except Exception as error:  # whatever it is, the other ranks must not wait for ever
            logger.exception("rank 0 failed")
            outcome[1] = CheckpointError(f"{type(error).__name__}: {error}")
    torch.distributed.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def on_storage(action: Callable[[], T]) -> T:
    """As `on_rank_zero`; rank 0 tries again while the storage is full or does not answer."""
    attempts = Retrying(
        retry=retry_if_exception_type((OSError, SafetensorError)),
        stop=stop_after_delay(STORAGE_SECONDS),
        wait=wait_exponential(max=15),
        before_sleep=before_sleep_log(logger, logging.WARNING),
        reraise=True,
    )
    return on_rank_zero(lambda: attempts(action))


def _counters(engine: Any) -> dict[str, Any]:
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
