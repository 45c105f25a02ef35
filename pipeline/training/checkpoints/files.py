"""Checkpoints as folders: find, verify, read and delete them.

    checkpoint_000123/
        model.safetensors        fp32 master weights under their Hugging Face names
        exp_avg.safetensors      the optimizer's first moments under the same names
        exp_avg_sq.safetensors   its second moments
        state.json               the loop's state, steps and loss scale
        config.yaml              the resolved settings
        hashes.json              XXH3-128 of every other file
        COMPLETE                 written last

Only a complete checkpoint counts. It is written under a temporary name and then renamed.
"""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash
import yaml
from pydantic import ValidationError

from pipeline.errors import CheckpointError
from pipeline.settings.config import Config
from pipeline.settings.mistakes import explain

WEIGHTS = "model.safetensors"
STATE = "state.json"
CONFIG = "config.yaml"
HASHES = "hashes.json"
COMPLETE = "COMPLETE"
TENSORS = {WEIGHTS: "", "exp_avg.safetensors": "exp_avg", "exp_avg_sq.safetensors": "exp_avg_sq"}
"""Files of tensors, and the key of each in the optimizer's state (weights have none)."""

logger = logging.getLogger(__name__)


def newest(folder: Path) -> Path | None:
    """The latest checkpoint that is complete and undamaged; warns of later ones that are not."""
    for path in sorted(_checkpoints(folder), key=_step, reverse=True):
        try:
            verify(path)
        except CheckpointError as error:
            logger.warning("skipping a checkpoint: %s", error)
        else:
            return path
    return None


def best(folder: Path) -> Path:
    """The complete checkpoint with the lowest held-out MLM loss; of equals, the newest.

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
                f"{file} is {'damaged' if file.exists() else 'missing'}; delete {path} to continue "
                "from an earlier checkpoint, or restore it from a copy"
            )


def read_hashes(path: Path) -> dict[str, str]:
    """Hash of each file, by its name inside the checkpoint."""
    return _read_json(path / HASHES)


def read_state(path: Path) -> dict[str, Any]:
    """The loop's state that was saved with a checkpoint."""
    state = _read_json(path / STATE)
    state.pop("engine", None)
    return state


def read_counters(path: Path) -> dict[str, Any]:
    """Steps, loss scale and number of workers of the engine that saved a checkpoint."""
    return _read_json(path / STATE)["engine"]


def read_config(path: Path) -> Config:
    """The settings that a checkpoint was trained with.

    Raises:
        CheckpointError: they are unreadable, or this version has other settings.
    """
    file = path / CONFIG
    try:
        return Config.model_validate(yaml.safe_load(file.read_text("utf-8")))
    except ValidationError as error:
        lines = "\n  ".join(explain(error))
        raise CheckpointError(f"{file} has settings that are not accepted:\n  {lines}") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CheckpointError(f"{file} is unreadable: {error}") from None


def commit(temporary: Path, path: Path, texts: Mapping[str, str]) -> None:
    """Add texts (by file name) to a folder of tensors, complete it and rename it to `path`.

    Rank 0 calls it. An older checkpoint at `path` is replaced.
    """
    for name, text in texts.items():
        (temporary / name).write_text(text, encoding="utf-8")
    files = [file for file in sorted(temporary.rglob("*")) if file.is_file()]
    hashes = {file.relative_to(temporary).as_posix(): _hash(file) for file in files}
    (temporary / HASHES).write_text(json.dumps(hashes, indent=2), encoding="utf-8")
    (temporary / COMPLETE).touch()
    remove(path)
    temporary.rename(path)


def prune(folder: Path, keep: int, protect: set[Path]) -> None:
    """Delete all but the newest `keep` checkpoints and those to protect; rank 0 calls it.

    Deletes what interrupted writes and deletions have left, too.
    """
    for remnant in folder.glob(".checkpoint_*"):
        shutil.rmtree(remnant)
    ordered = sorted(_checkpoints(folder), key=_step)
    kept = {*ordered[-keep:], *protect}
    for path in ordered:
        if path not in kept:
            remove(path)


def remove(path: Path) -> None:
    """Delete a checkpoint, if it exists; an interruption never leaves half of one."""
    if path.exists():
        deleted = path.with_name(f".{path.name}.deleted")
        shutil.rmtree(deleted, ignore_errors=True)
        path.rename(deleted)
        shutil.rmtree(deleted)


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.glob("checkpoint_*") if re.fullmatch(r"\w+_\d{6,}", path.name)]


def _step(path: Path) -> int:
    return int(path.name.rpartition("_")[2])


def _hash(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is unreadable: {error}; take another checkpoint") from None
