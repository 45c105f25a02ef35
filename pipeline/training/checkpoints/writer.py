"""Writes checkpoints in the background, one at a time.

Training waits only until every rank has copied its part of the state to host memory, and until the
checkpoint before is complete. A thread of each rank then writes the rank's file, the ranks tell
each other the hashes, and rank 0 completes the checkpoint and deletes old ones. The threads have a
process group of their own, so that their collectives and those of the training do not mix.
"""

import json
import shutil
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor

from pipeline.errors import CheckpointError, NezhaError
from pipeline.files.disk import OWN, Disk
from pipeline.progress import Say
from pipeline.settings.training import TrainSettings
from pipeline.training.checkpoints import files, state, tensors
from pipeline.training.checkpoints.retries import retried
from pipeline.training.ranks import attempt

RENDEZVOUS_SECONDS = 1800.0
"""How long ranks wait for each other when the storage holds up none of them."""


def longest_seconds(train: TrainSettings) -> float:
    """How long the storage may hold up a checkpoint: the file of a rank, then its completion."""
    return 2 * train.checkpoint_retry_seconds


class Writer:
    """Every rank has one, in the same process group, and calls the same methods.

    Args:
        tell: takes a line if training goes on without a checkpoint; rank 0 calls it.
        disk: holds the folder. A rank that does not see it writes its file here and sends it.
    """

    def __init__(self, folder: Path, settings: TrainSettings, tell: Say, disk: Disk = OWN) -> None:
        self._folder, self._settings, self._tell, self._disk = folder, settings, tell, disk
        limit = timedelta(seconds=RENDEZVOUS_SECONDS + longest_seconds(settings))
        self._group = dist.new_group(backend="gloo", timeout=limit)
        self._copy = state.HostCopy()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._seconds: dict[str, float] = {}

    @property
    def failed(self) -> bool:
        """Whether `wait` would raise an error that this rank knows already."""
        return self._error is not None

    def begin(self, engine: Any, step: int, content: dict[str, Any], config_yaml: str) -> Path:
        """Copy the state, and begin to write `folder/checkpoint_<step>`.

        Args:
            engine: the DeepSpeed engine, between two optimizer steps.
            step: optimizer steps made.
            content: what `files.read_state` returns later; must fit JSON.
            config_yaml: the resolved settings.

        Returns:
            the folder, which is complete when `wait` has returned.

        Raises:
            CheckpointError: as `wait`, of the checkpoint before.
        """
        begun = time.monotonic()
        self.wait()
        waited = time.monotonic()
        parts, shapes = self._copy.take(engine)
        copied = time.monotonic()
        self._seconds |= {
            "speed/checkpoint_wait_seconds": waited - begun,
            "speed/checkpoint_copy_seconds": copied - waited,
        }
        text = json.dumps({**content, "engine": state.counters(engine)}, ensure_ascii=False)
        texts = {files.STATE: text, files.CONFIG: config_yaml}
        path = self._folder / f"checkpoint_{step:06d}"
        self._thread = threading.Thread(
            target=self._run, args=(path, parts, shapes, texts), name="checkpoint", daemon=True
        )
        self._thread.start()
        return path

    def wait(self, final: bool = False) -> None:
        """Wait until the checkpoint that was begun is complete.

        Args:
            final: whether it is the last one of the run, without which the run has no result.

        Raises:
            CheckpointError: it could not be written within `train.checkpoint_retry_seconds`, on
                every rank; the earlier ones are whole. With `train.checkpoint_errors=continue`
                this is recorded instead, unless it is the last one.
        """
        if self._thread is None:
            return
        self._thread.join()
        self._thread, error, self._error = None, self._error, None
        if error is None:
            return
        goes_on = self._settings.checkpoint_errors == "continue" and not final
        if not goes_on or not isinstance(error, NezhaError):
            raise error
        if dist.get_rank() == 0:
            self._tell(f"training goes on without a checkpoint: {error}")

    def close(self) -> None:
        """Complete the checkpoint that was begun, also if an error ends the training.

        Errors are not raised: `wait` is for them. A KeyboardInterrupt does not wait.
        """
        if self._thread and not isinstance(sys.exception(), KeyboardInterrupt):
            self._thread.join()
            self._thread = None

    def take_seconds(self) -> dict[str, float]:
        """Seconds of the checkpoints since the last call, for the record.

        `speed/checkpoint_wait_seconds` (for the one before) and `speed/checkpoint_copy_seconds`
        stopped the training, `speed/checkpoint_write_seconds` did not.
        """
        taken, self._seconds = self._seconds, {}
        return taken

    def _run(
        self,
        path: Path,
        parts: dict[str, Tensor],
        shapes: dict[str, list[int]],
        texts: dict[str, str],
    ) -> None:
        begun = time.monotonic()
        try:
            self._error = self._write(path, parts, shapes, texts)
        except Exception as error:  # a rank has died; `wait` raises it, if nothing else does before
            self._error = error
        self._seconds["speed/checkpoint_write_seconds"] = time.monotonic() - begun

    def _write(
        self,
        path: Path,
        parts: dict[str, Tensor],
        shapes: dict[str, list[int]],
        texts: dict[str, str],
    ) -> NezhaError | None:
        """Write this rank's file and complete the checkpoint; returns the error of any rank."""
        temporary = path.with_name(f".{path.name}.tmp")
        rank = dist.get_rank()
        name = tensors.file_of(rank)

        def write_part() -> str:
            temporary.mkdir(parents=True, exist_ok=True)
            digest = tensors.write(temporary / name, parts, shapes)
            self._disk.send(temporary / name)
            return digest

        def complete(hashes: dict[str, str]) -> None:
            keep = self._settings.keep_last, self._settings.keep_every
            self._disk.call(files.commit, temporary, path, texts, hashes)
            self._disk.call(files.prune, self._folder, *keep)

        digest, error = self._retried(write_part, path)
        outcomes: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(outcomes, (name, digest, error), group=self._group)
        error = next((error for _, _, error in outcomes if error), None)
        if rank == 0 and error is None:
            hashes = {name: digest for name, digest, _ in outcomes}
            _, error = self._retried(partial(complete, hashes), path)
        outcome = [error]
        dist.broadcast_object_list(outcome, src=0, group=self._group)
        if outcome[0]:  # its room may be what is missing
            self._disk.drop(temporary)
            if rank == 0:
                with suppress(OSError):
                    self._disk.call(shutil.rmtree, temporary, ignore_errors=True)
        return outcome[0]

    def _retried(self, action: Callable[[], Any], path: Path) -> tuple[Any, NezhaError | None]:
        seconds = self._settings.checkpoint_retry_seconds
        result, error = attempt(lambda: retried(action, seconds))
        if error:
            error = CheckpointError(
                f"{self._disk.there(path)} could not be written for {seconds:g} s: {error}; the "
                "checkpoints before it are whole"
            )
        return result, error
