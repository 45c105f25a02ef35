"""Training checkpoints that are whole or do not count, for any number of workers and ZeRO stage.

    checkpoint_000123/
        engine/             DeepSpeed's files: weights, optimizer and loss-scale state by rank
        model.safetensors   fp32 master weights under their Hugging Face names
        state.json          the loop's state, and how the engine was laid out
        config.yaml         the resolved settings
        hashes.json         XXH3-128 of every other file
        COMPLETE            written last

A folder is written under a temporary name and renamed. Restoring on another number of workers or
another ZeRO stage goes through DeepSpeed's universal format, which is made once, in
`universal_000123/` beside the checkpoint. DeepSpeed loads its files with pickle: restore
checkpoints of trusted origin only; `model.safetensors` is safe.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import re
import shutil
from argparse import Namespace
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import xxhash
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.errors import CheckpointError
from pipeline.settings.config import Config
from pipeline.training import engine as engines
from pipeline.training.lamb.fragments import locate

WEIGHTS = "model.safetensors"
STATE = "state.json"
CONFIG = "config.yaml"
HASHES = "hashes.json"
COMPLETE = "COMPLETE"
ENGINE = "engine"
MOMENTS = ("exp_avg", "exp_avg_sq")

logger = logging.getLogger(__name__)


def save(engine: Any, folder: Path, step: int, state: dict[str, Any], config_yaml: str) -> Path:
    """Write `folder/checkpoint_<step>`; every rank calls it, and gets the path once it is whole.

    Args:
        engine: the DeepSpeed engine, between two optimizer steps.
        folder: a folder that all ranks see.
        step: optimizer steps made.
        state: what `read_state` gives back; must fit JSON.
        config_yaml: the resolved settings.

    Raises:
        CheckpointError: it could not be written.
    """
    path = folder / f"checkpoint_{step:06d}"
    temporary = folder / f".{path.name}.tmp"

    def make_room() -> None:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)

    _on_rank_zero(make_room)
    # Without this entry DeepSpeed's own converter refuses the files.
    marker = {"universal_checkpoint_info": {"universal_checkpoint_version": 0.4}}
    engine.save_checkpoint(temporary, tag=ENGINE, client_state=marker, save_latest=False)
    weights = engines.full_state_dict(engine)

    def commit() -> None:
        assert weights is not None  # this is rank 0
        save_file(weights, temporary / WEIGHTS, metadata={"format": "pt"})
        text = json.dumps({**state, "engine": _layout(engine)}, indent=2, ensure_ascii=False)
        (temporary / STATE).write_text(text, encoding="utf-8")
        (temporary / CONFIG).write_text(config_yaml, encoding="utf-8")
        hashes = {name: _hash(temporary / name) for name in _files(temporary)}
        (temporary / HASHES).write_text(json.dumps(hashes, indent=2), encoding="utf-8")
        (temporary / COMPLETE).touch()
        remove(path)
        temporary.rename(path)

    _on_rank_zero(commit)
    return path


def newest(folder: Path) -> Path | None:
    """The checkpoint of the latest step that is complete and undamaged; others are warned of."""
    for path in sorted(_checkpoints(folder), key=_step, reverse=True):
        try:
            verify(path)
        except CheckpointError as error:
            logger.warning("skipping a checkpoint: %s", error)
        else:
            return path
    return None


def best(folder: Path) -> Path:
    """The complete checkpoint with the lowest held-out MLM loss, the newest of equals.

    Raises:
        CheckpointError: there is none.
    """
    scored = []
    for path in _checkpoints(folder):
        if (path / COMPLETE).exists():
            loss = read_state(path).get("heldout", {}).get("mlm_loss", math.inf)
            scored.append((loss if math.isfinite(loss) else math.inf, -_step(path), path))
    if not scored:
        raise CheckpointError(f"{folder}: no complete checkpoint; train first (jobs.pretrain)")
    return min(scored)[-1]


def verify(path: Path) -> None:
    """Compare every file with its recorded hash.

    Raises:
        CheckpointError: the folder is incomplete, or a file is missing or differs.
    """
    if not (path / COMPLETE).exists():
        raise CheckpointError(f"{path} is incomplete: it has no file {COMPLETE}; take another one")
    for name, expected in read_hashes(path).items():
        file = path / name
        if not file.exists() or _hash(file) != expected:
            raise CheckpointError(
                f"{file} is {'damaged' if file.exists() else 'missing'}; delete {path} to go on "
                "from an earlier checkpoint, or restore it from a copy"
            )


def read_hashes(path: Path) -> dict[str, str]:
    """Hash of each file, by its name inside the checkpoint."""
    return _read_json(path / HASHES)


def read_state(path: Path) -> dict[str, Any]:
    """The state that was given to `save`."""
    state = _read_json(path / STATE)
    state.pop("engine", None)
    return state


def read_config(path: Path) -> Config:
    """The settings that it was trained with."""
    try:
        return Config.model_validate(yaml.safe_load((path / CONFIG).read_text("utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path / CONFIG} is unreadable: {error}") from None


def restore(engine: Any, path: Path) -> dict[str, Any]:
    """Load weights, optimizer state and loss scale into a fresh engine; every rank calls it.

    On the same layout the run goes on bit for bit. Hyperparameters are those of the engine, not
    of the checkpoint.

    Returns:
        the state that was given to `save`.

    Raises:
        CheckpointError: the checkpoint is incomplete, damaged, or of another network.
    """
    _on_rank_zero(lambda: verify(path))
    saved, now = _read_json(path / STATE)["engine"], _layout(engine)
    before, after = saved["shapes"], now["shapes"]
    wrong = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    if wrong:
        raise CheckpointError(f"{path} is of another network; these weights differ: {wrong}")
    alike = all(saved[key] == now[key] for key in ("wrapper", "precision", "partitions"))
    if alike and list(before) == list(after):
        _load_as_it_is(engine, path)
    else:
        universal = path.with_name(f"universal_{_step(path):06d}")
        _on_rank_zero(lambda: _convert(path, universal, saved))
        _load_universal(engine, universal, saved)
        _load_buffers(engine, path)
    return read_state(path)


def begin_from(engine: Any, path: Path) -> None:
    """Start a new run from the full state of another one; every rank calls it.

    Moments and their bias correction go on, steps are counted from 0.

    Raises:
        CheckpointError: as `restore`, or `path` is no checkpoint.
    """
    if not (path / ENGINE).is_dir():
        raise CheckpointError(
            f"{path} holds no optimizer state; train.init_state=full needs a checkpoint_… folder, "
            "an export starts with train.init_state=weights"
        )
    restore(engine, path)
    engine.global_steps = engine.global_samples = engine.skipped_steps = 0


def load_weights(network: nn.Module, path: Path) -> None:
    """Start a network from the weights of a checkpoint or an export.

    Raises:
        CheckpointError: there are none, or they are of another network.
    """
    try:
        weights = load_file(path / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} has no readable {WEIGHTS}: {error}; train.init_from names a "
            "checkpoint_… folder or an export"
        ) from None
    own = network.state_dict()
    wrong = [name for name in weights if name not in own or own[name].shape != weights[name].shape]
    # Of tied weights the file has one.
    given = {own[name].data_ptr(): weight for name, weight in weights.items() if name in own}
    wrong += [name for name, weight in own.items() if weight.data_ptr() not in given]
    if wrong:
        raise CheckpointError(f"{path} is of another network; these weights differ: {wrong}")
    network.load_state_dict({name: given[weight.data_ptr()] for name, weight in own.items()})


def prune(folder: Path, keep: int, protect: set[Path]) -> None:
    """Delete all but the newest `keep` checkpoints and those to protect; rank 0 calls it.

    What interrupted writes and deletions have left behind goes too.
    """
    for remnant in chain(folder.glob(".checkpoint_*"), folder.glob(".universal_*")):
        shutil.rmtree(remnant)
    ordered = sorted(_checkpoints(folder), key=_step)
    kept = {*ordered[-keep:], *protect}
    for path in ordered:
        if path not in kept:
            remove(path)


def remove(path: Path) -> None:
    """Delete a checkpoint and what was made from it; never leaves half of one."""
    for doomed in (path, path.with_name(path.name.replace("checkpoint", "universal"))):
        if doomed.exists():
            grave = doomed.with_name(f".{doomed.name}.gone")
            shutil.rmtree(grave, ignore_errors=True)
            doomed.rename(grave)
            shutil.rmtree(grave)


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.glob("checkpoint_*") if re.fullmatch(r"\w+_\d{6,}", path.name)]


def _step(path: Path) -> int:
    return int(path.name.rpartition("_")[2])


def _files(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix()


def _hash(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is unreadable: {error}; take another checkpoint") from None


def _on_rank_zero(action: Callable[[], None]) -> None:
    """Rank 0 acts while the others wait; what went wrong there is raised everywhere."""
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
    """What decides whether DeepSpeed's files fit an engine as they are, and what they leave out."""
    flats = locate(engine)
    optimizer = engines.optimizer_of(engine)
    scaler = getattr(engine.optimizer, "loss_scaler", None)
    shapes = chain(*(zip(flat.names, flat.shapes, strict=True) for flat in flats))
    shared = flats[0].group is not None
    return {
        "wrapper": type(engine.optimizer).__name__,
        "precision": str(engine.get_data_types()[0]),
        "partitions": torch.distributed.get_world_size() if shared else 1,
        "shapes": {name: list(shape) for name, shape in shapes},
        "optimizer_step": max(optimizer.state[flat.tensor]["step"] for flat in flats),
        "global_steps": engine.global_steps,
        "global_samples": engine.global_samples,
        "skipped_steps": engine.skipped_steps,
        "scaler": {
            key: value
            for key, value in vars(scaler or Namespace()).items()
            if isinstance(value, int | float)
        },
    }


def _load_as_it_is(engine: Any, path: Path) -> None:
    groups = engines.optimizer_of(engine).param_groups
    current = [{k: v for k, v in group.items() if k != "params"} for group in groups]
    with contextlib.redirect_stdout(io.StringIO()):
        loaded, _ = engine.load_checkpoint(path, tag=ENGINE)
    if loaded is None:
        raise CheckpointError(f"{path / ENGINE} has nothing that DeepSpeed can load")
    for group, values in zip(engines.optimizer_of(engine).param_groups, current, strict=True):
        group.update(values)


def _convert(path: Path, universal: Path, saved: dict[str, Any]) -> None:
    """DeepSpeed's files to one folder a parameter: `zero/<name>/{fp32,exp_avg,exp_avg_sq}.pt`."""
    if universal.exists():
        return
    temporary = universal.with_name(f".{universal.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    whole = path / ENGINE / "mp_rank_00_model_states.pt"
    if saved["partitions"] == 1 and not list((path / ENGINE).glob("*optim_states.pt")):
        _convert_whole(torch.load(whole, map_location="cpu", weights_only=False), temporary, saved)
    else:
        from deepspeed.checkpoint import ds_to_universal

        # It leaves a note beside its output: a level deeper, the note is ours to throw away.
        arguments = Namespace(
            input_folder=str(path / ENGINE),
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


def _convert_whole(states: dict[str, Any], output: Path, saved: dict[str, Any]) -> None:
    """Stage 0, which DeepSpeed's converter does not know: whole tensors, in the saved order."""
    for index, name in enumerate(saved["shapes"]):
        folder = output / "zero" / name
        folder.mkdir(parents=True)
        torch.save({"param": states["module"][name].detach()}, folder / "fp32.pt")
        for key in MOMENTS:
            moment = states["optimizer"]["state"][index][key]
            torch.save({"param": moment}, folder / f"{key}.pt")


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
    for key in ("global_steps", "global_samples", "skipped_steps"):
        setattr(engine, key, saved[key])
    scaler = getattr(engine.optimizer, "loss_scaler", None)
    if scaler is not None and saved["precision"] == str(engine.get_data_types()[0]):
        vars(scaler).update(saved["scaler"])


def _read_universal(file: Path) -> Tensor:
    try:
        # Mapped: a rank reads its own part from the disk. The converter writes a bare tensor from
        # stage 3, and a dict with its provenance from stages 1 and 2.
        read = torch.load(file, mmap=True, map_location="cpu", weights_only=True)
        return (read["param"] if isinstance(read, dict) else read).view(-1)
    except (OSError, RuntimeError, KeyError) as error:
        raise CheckpointError(
            f"{file} is unreadable: {error}; delete {file.parents[2]}, it will be made again"
        ) from None


def _load_buffers(engine: Any, path: Path) -> None:
    weights = load_file(path / WEIGHTS)
    for name, buffer in engine.module.named_buffers():
        if name.removeprefix("network.") in weights:
            buffer.copy_(weights[name.removeprefix("network.")])
