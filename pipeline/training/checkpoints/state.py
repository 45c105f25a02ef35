"""State of a run: save it, and restore it on any number of workers and at any ZeRO stage.

On the layout that saved it, DeepSpeed loads its own files and the run continues bit for bit. On
another number of workers, another stage or another precision, the files are converted once to
DeepSpeed's universal format, in `universal_000123/` beside the checkpoint.

DeepSpeed loads its files with pickle: restore only checkpoints of trusted origin.
`model.safetensors` is safe.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from argparse import Namespace
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.errors import CheckpointError
from pipeline.training import engine as engines
from pipeline.training.checkpoints import files
from pipeline.training.lamb.fragments import locate

COUNTERS = ("global_steps", "global_samples", "skipped_steps")
"""DeepSpeed's own."""
MOMENTS = ("exp_avg", "exp_avg_sq")


def save(engine: Any, folder: Path, step: int, state: dict[str, Any], config_yaml: str) -> Path:
    """Write `folder/checkpoint_<step>`; every rank calls it and gets the path when it is complete.

    Args:
        engine: the DeepSpeed engine, between two optimizer steps.
        folder: a folder that all ranks see.
        step: optimizer steps made.
        state: what `files.read_state` returns later; must fit JSON.
        config_yaml: the resolved settings.

    Raises:
        CheckpointError: it could not be written.
    """
    path = folder / f"checkpoint_{step:06d}"
    temporary = folder / f".{path.name}.tmp"

    def make_folder() -> None:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)

    _on_rank_zero(make_folder)
    # DeepSpeed's converter refuses files without this entry.
    marker = {"universal_checkpoint_info": {"universal_checkpoint_version": 0.4}}
    engine.save_checkpoint(temporary, tag=files.ENGINE, client_state=marker, save_latest=False)
    weights = engines.full_state_dict(engine)

    def commit() -> None:
        assert weights is not None  # this is rank 0
        save_file(weights, temporary / files.WEIGHTS, metadata={"format": "pt"})
        text = json.dumps({**state, "engine": _layout(engine)}, indent=2, ensure_ascii=False)
        files.commit(temporary, path, {files.STATE: text, files.CONFIG: config_yaml})

    _on_rank_zero(commit)
    return path


def restore(engine: Any, path: Path) -> dict[str, Any]:
    """Load weights, optimizer state and loss scale into a fresh engine; every rank calls it.

    Hyperparameters are those of the engine, not of the checkpoint.

    Returns:
        the state that was given to `save`.

    Raises:
        CheckpointError: the checkpoint is incomplete, damaged, or of another network.
    """
    _on_rank_zero(lambda: files.verify(path))
    saved, now = files.read_layout(path), _layout(engine)
    before, after = saved["shapes"], now["shapes"]
    wrong = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    if wrong:
        raise CheckpointError(f"{path} is of another network; these weights differ: {wrong}")
    alike = all(saved[key] == now[key] for key in ("wrapper", "precision", "partitions"))
    if alike and list(before) == list(after):
        _load_engine_files(engine, path)
    else:
        _on_rank_zero(lambda: _convert(path))
        _load_universal(engine, files.universal(path), saved)
        _load_buffers(engine, path)
    return files.read_state(path)


def begin_from(engine: Any, path: Path) -> None:
    """Start a new run from the full state of another one; every rank calls it.

    The moments and their bias correction continue; steps are counted from 0.

    Raises:
        CheckpointError: as `restore`, or `path` is no checkpoint.
    """
    if not (path / files.ENGINE).is_dir():
        raise CheckpointError(
            f"{path} holds no optimizer state; train.init_state=full needs a checkpoint_… folder, "
            "an export starts with train.init_state=weights"
        )
    restore(engine, path)
    for counter in COUNTERS:
        setattr(engine, counter, 0)


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
    if wrong:
        raise CheckpointError(f"{path} is of another network; these weights differ: {wrong}")
    network.load_state_dict({name: given[weight.data_ptr()] for name, weight in own.items()})


def _on_rank_zero(action: Callable[[], None]) -> None:
    """Rank 0 acts while the others wait; every rank raises an error that occurred there."""
    outcome: list[str | None] = [None]
    if torch.distributed.get_rank() == 0:
        try:
            action()
        except (CheckpointError, OSError) as error:
            outcome = [str(error)]
    torch.distributed.broadcast_object_list(outcome, src=0)
    if outcome[0] is not None:
        raise CheckpointError(outcome[0])


def _layout(engine: Any) -> dict[str, Any]:
    """What decides whether DeepSpeed's files fit an engine, and the state that they leave out."""
    flats = locate(engine)
    optimizer = engines.optimizer_of(engine)
    scaler = getattr(engine.optimizer, "loss_scaler", None)
    shapes = chain(*(zip(flat.names, flat.shapes, strict=True) for flat in flats))
    return {
        "wrapper": type(engine.optimizer).__name__,
        "precision": str(engine.get_data_types()[0]),
        "partitions": torch.distributed.get_world_size(),
        "shapes": {name: list(shape) for name, shape in shapes},
        "optimizer_step": max(optimizer.state[flat.tensor]["step"] for flat in flats),
        **{counter: getattr(engine, counter) for counter in COUNTERS},
        "scaler": {
            key: value
            for key, value in vars(scaler or Namespace()).items()
            if isinstance(value, int | float)
        },
    }


def _load_engine_files(engine: Any, path: Path) -> None:
    groups = engines.optimizer_of(engine).param_groups
    current = [{k: v for k, v in group.items() if k != "params"} for group in groups]
    with contextlib.redirect_stdout(io.StringIO()):
        loaded, _ = engine.load_checkpoint(path, tag=files.ENGINE)
    if loaded is None:
        raise CheckpointError(f"{path / files.ENGINE} has nothing that DeepSpeed can load")
    for group, values in zip(engines.optimizer_of(engine).param_groups, current, strict=True):
        group.update(values)


def _convert(path: Path) -> None:
    """DeepSpeed's files to a folder for each parameter: `zero/<name>/{fp32,exp_avg,…}.pt`."""
    universal = files.universal(path)
    if universal.exists():
        return
    from deepspeed.checkpoint import ds_to_universal

    temporary = universal.with_name(f".{universal.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    # The converter writes a note beside its output: one level deeper, we can delete it.
    arguments = Namespace(
        input_folder=str(path / files.ENGINE),
        output_folder=str(temporary / "made"),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=False,
    )
    silence = io.StringIO()
    with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        ds_to_universal.main(arguments)
    (temporary / "made" / "zero").rename(temporary / "zero")
    shutil.rmtree(temporary / "made")
    temporary.rename(universal)


def _load_universal(engine: Any, universal: Path, saved: dict[str, Any]) -> None:
    """Each rank copies its fragments of every parameter, whatever its layout is."""
    optimizer, folder = engines.optimizer_of(engine), universal / "zero"
    for flat in locate(engine):
        state = optimizer.state[flat.tensor]
        state["step"] = saved["optimizer_step"]
        targets = {"fp32": flat.tensor.detach(), **{key: state[key] for key in MOMENTS}}
        for key, target in targets.items():
            flat.fill(target, lambda name, key=key: _read_universal(folder / name / f"{key}.pt"))  # type: ignore[misc]
    engines.publish_master_weights(engine)
    for counter in COUNTERS:
        setattr(engine, counter, saved[counter])
    scaler = getattr(engine.optimizer, "loss_scaler", None)
    if scaler is not None and saved["precision"] == str(engine.get_data_types()[0]):
        vars(scaler).update(saved["scaler"])


def _read_universal(file: Path) -> Tensor:
    try:
        # Memory-mapped: a rank reads only its own part. The converter writes a bare tensor from
        # stage 3, and a dict with its provenance from stages 1 and 2.
        read = torch.load(file, mmap=True, map_location="cpu", weights_only=True)
        return (read["param"] if isinstance(read, dict) else read).view(-1)
    except (OSError, RuntimeError, KeyError) as error:
        raise CheckpointError(
            f"{file} is unreadable: {error}; delete {file.parents[2]}, it will be made again"
        ) from None


def _load_buffers(engine: Any, path: Path) -> None:
    weights = load_file(path / files.WEIGHTS)
    for name, buffer in engine.module.named_buffers():
        if name.removeprefix("network.") in weights:
            buffer.copy_(weights[name.removeprefix("network.")])
