"""Checkpoints as folders: find, verify, read and delete them.

    checkpoint_000123/
        rank_00000.safetensors   fp32 master weights and moments that rank 0 holds (see `tensors`)
        …                        and so for every rank
        state.json               the loop's state, steps and loss scale
        config.yaml              the resolved settings
        hashes.json              XXH3-128 of every other file
        COMPLETE                 written last

Only a complete checkpoint counts. It is written under a temporary name and then renamed. A damaged
one is set aside as `damaged_checkpoint_000123` when a run starts, and counts no more.
"""

import errno
import fcntl
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import xxhash
import yaml
from pydantic import ValidationError

from pipeline.errors import CheckpointError
from pipeline.files.hashing import file_xxh3
from pipeline.progress import Say
from pipeline.settings.config import ACCEPTED, Config
from pipeline.settings.reading import yaml_text
from pipeline.settings.reading.mistakes import explain

STATE = "state.json"
CONFIG = "config.yaml"
HASHES = "hashes.json"
COMPLETE = "COMPLETE"
DAMAGED = "damaged_"
NAME = re.compile(r"checkpoint_\d{6,}")
"""Of a folder; a name with `damaged_` in front of it is none."""

logger = logging.getLogger(__name__)


def newest(folder: Path) -> Path | None:
    """The latest complete checkpoint, whose tensors are not read; `recover` verifies them."""
    return max(_states(folder), key=step_of, default=None)


def recover(folder: Path, tell: Say) -> Path | None:
    """The checkpoint to go on from, verified, after removing what interruptions have left.

    Damaged checkpoints that are later than it are renamed to `damaged_…`. Rank 0 of a run that
    starts calls it.

    Args:
        tell: takes a line for each damaged checkpoint.

    Raises:
        CheckpointError: there were checkpoints, and none is usable.
        OSError: the storage does not answer, which does not make a checkpoint a damaged one.
    """
    _remove_remnants(folder)
    for path in sorted(_checkpoints(folder), key=step_of, reverse=True):
        try:
            verify(path)
        except CheckpointError as error:
            aside = path.with_name(f"{DAMAGED}{path.name}")
            _delete(aside)
            path.rename(aside)
            tell(f"{error}; it is kept as {aside.name}")
        else:
            return path
    if damaged := sorted(path.name for path in folder.glob(f"{DAMAGED}*")):
        raise CheckpointError(
            f"{folder}: no checkpoint is usable ({', '.join(damaged)}); restore one from a copy, "
            "or delete these folders to begin anew"
        )
    return None


def best(folder: Path) -> Path:
    """The complete checkpoint with the lowest held-out MLM loss; of equals, the newest.

    Only those are compared that were scored on the same samples as the newest one is.

    Raises:
        CheckpointError: there is none.
    """
    states = _states(folder)
    if not states:
        raise CheckpointError(f"{folder}: no complete checkpoint; train first (jobs.pretrain)")
    return _best(states)


def verify(path: Path) -> None:
    """Compare every file with its recorded hash.

    Raises:
        CheckpointError: the folder is incomplete, or a file is missing or differs.
    """
    if not (path / COMPLETE).exists():
        raise CheckpointError(f"{path} is incomplete: it has no file {COMPLETE}; take another one")
    for name, expected in read_hashes(path).items():
        file = path / name
        if not file.exists() or file_xxh3(file) != expected:
            raise CheckpointError(
                f"{file} is {'damaged' if file.exists() else 'missing'}; restore {path} from a "
                "copy, or take another checkpoint"
            )


def read_hashes(path: Path) -> dict[str, str]:
    """Hash of each file, by its name inside the checkpoint."""
    return _read_json(path / HASHES, STATE, CONFIG)


def require_state(path: Path) -> None:
    """Raise CheckpointError for a folder that holds weights alone."""
    if not (path / STATE).exists():
        raise CheckpointError(
            f"{path} holds no optimizer state; train.init_state=full and branch need a "
            "checkpoint_… folder, an export starts with train.init_state=weights"
        )


def read_state(path: Path) -> dict[str, Any]:
    """The loop's state that was saved with a checkpoint."""
    state = _read_json(path / STATE, "step", "engine")
    del state["engine"]
    return state


def read_counters(path: Path) -> dict[str, Any]:
    """Steps, loss scale and number of workers of the engine that saved a checkpoint."""
    return _read_json(path / STATE, "engine")["engine"]


def read_config(path: Path) -> Config:
    """The settings that a checkpoint was trained with.

    Raises:
        CheckpointError: they are unreadable, or this version has other settings.
    """
    file = path / CONFIG
    try:
        return Config.model_validate(yaml_text.load(file.read_text("utf-8")), context=ACCEPTED)
    except ValidationError as error:
        lines = "\n  ".join(explain(error))
        raise CheckpointError(f"{file} has settings that are not accepted:\n  {lines}") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CheckpointError(f"{file} is unreadable: {error}") from None


def commit(
    temporary: Path, path: Path, texts: Mapping[str, str], hashes: Mapping[str, str]
) -> None:
    """Add texts (by file name) to a folder of tensors, complete it and rename it to `path`.

    Rank 0 calls it, again if the storage failed. An older checkpoint at `path` is replaced.

    Args:
        hashes: those of the tensor files, which are on the disk already.
    """
    if not temporary.exists() and (path / COMPLETE).exists():
        return  # only the last wait for the disk had failed
    (temporary / COMPLETE).unlink(missing_ok=True)  # of an attempt that failed
    digests = {name: xxhash.xxh3_128_hexdigest(text.encode()) for name, text in texts.items()}
    content = {**texts, HASHES: json.dumps({**hashes, **digests}, indent=2)}
    # After a power failure the marker must not say that files are complete which are not there.
    for name, text in content.items():
        (temporary / name).write_bytes(text.encode())
        _flush(temporary / name)
    (temporary / COMPLETE).touch()
    _flush(temporary / COMPLETE)
    _flush(temporary)
    remove(path)
    temporary.rename(path)
    _flush(path.parent)


def prune(folder: Path, keep_last: int, keep_every: int = 0) -> None:
    """Delete checkpoints, except these; rank 0 calls it.

    The newest `keep_last` complete ones, those after a multiple of `keep_every` steps (0: none),
    the best one, and those that a process reads (`in_use`).
    """
    states = _states(folder)
    complete = sorted(states, key=step_of)
    kept = {*complete[-keep_last:], *([_best(states)] if states else [])}
    if keep_every:
        kept |= {path for path in complete if step_of(path) % keep_every == 0}
    for path in _checkpoints(folder):
        if path not in kept:
            with _told(path):
                _remove_unused(path)


@contextmanager
def in_use(path: Path) -> Iterator[None]:
    """Keep a checkpoint from being pruned while this process reads it.

    The lock is on its marker and ends with the process. It has no effect on a folder that holds no
    marker or whose file system has no locks.
    """
    with ExitStack() as held:
        with suppress(OSError):
            marker = held.enter_context((path / COMPLETE).open("rb"))
            fcntl.flock(marker, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield


def _remove_unused(path: Path) -> None:
    """Delete a checkpoint unless a process reads it; then a later call deletes it."""
    with ExitStack() as held:
        with suppress(FileNotFoundError):
            marker = held.enter_context((path / COMPLETE).open("r+b"))  # NFS locks files to write
            try:
                fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            except OSError:  # the file system has no locks
                pass
        remove(path)


def remove(path: Path) -> None:
    """Delete a checkpoint, if it exists; an interruption never leaves half of one."""
    if path.exists():
        deleted = path.with_name(f".{path.name}.deleted")
        _delete(deleted)
        path.rename(deleted)
        _delete(deleted)


def _remove_remnants(folder: Path) -> None:
    """Delete what interrupted writes and deletions have left."""
    for remnant in folder.glob(".checkpoint_*"):
        with _told(remnant):
            _delete(remnant)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Warn of an old folder that cannot be deleted: training needs only its room.

    It may be protected, or hold files that another process has open on NFS.
    """
    try:
        yield
    except OSError as error:
        logger.warning("%s cannot be deleted: %s", path, error)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def complete(folder: Path) -> list[Path]:
    """The complete checkpoints, oldest first."""
    return sorted(
        (path for path in _checkpoints(folder) if (path / COMPLETE).exists()), key=step_of
    )


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.glob("checkpoint_*") if NAME.fullmatch(path.name)]


def _states(folder: Path) -> dict[Path, dict[str, Any]]:
    """The states of the complete checkpoints; warns of those that cannot be read."""
    states = {}
    for path in complete(folder):
        try:
            states[path] = read_state(path)
        except CheckpointError as error:
            logger.warning("a checkpoint does not count: %s", error)
    return states


def _best(states: Mapping[Path, dict[str, Any]]) -> Path:
    def rank(path: Path) -> tuple[float, int]:
        loss = states[path].get("heldout", {}).get("mlm_loss", math.inf)
        return (loss if math.isfinite(loss) else math.inf, -step_of(path))

    judged_on = states[max(states, key=step_of)].get("heldout_set")
    return min((path for path in states if states[path].get("heldout_set") == judged_on), key=rank)


def step_of(path: Path) -> int:
    """The step after which a checkpoint was written."""
    return int(path.name.rpartition("_")[2])


def _flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems can't wait for a folder.
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _read_json(path: Path, *needed: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
        if not isinstance(found, dict) or not found.keys() >= set(needed):
            raise ValueError(f"it lacks {' or '.join(needed)}")
    except (FileNotFoundError, ValueError) as error:
        raise CheckpointError(f"{path} is unreadable: {error}; take another checkpoint") from None
    return found
