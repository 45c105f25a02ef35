"""What ranks do together: one acts for all, and all agree or add up."""

import logging
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor

from pipeline.errors import CheckpointError, ConfigError, NezhaError
from pipeline.files.disk import Disk

T = TypeVar("T")
logger = logging.getLogger(__name__)


def on_rank_zero(action: Callable[[], T]) -> T:
    """Rank 0 acts while the others wait; every rank gets what it returns, or raises its error.

    Raises:
        NezhaError: rank 0 raised it, or raised an error of another kind, which it then names.
    """
    outcome: list[Any] = [None, None]
    if dist.get_rank() == 0:
        outcome = list(attempt(action))
    dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def sum_over_ranks(*tensors: Tensor) -> None:
    """Replace tensors by their sums over all ranks; a process without a group is the only rank."""
    if dist.is_initialized():
        for tensor in tensors:
            dist.all_reduce(tensor)


def require_shared(folder: Path, host: str, disk: Disk) -> None:
    """Check that ranks without a remote disk see the same folder; every rank calls it.

    Args:
        host: this rank's machine, for the message.
        disk: holds the folder.

    Raises:
        ConfigError: some do not.
    """

    name = on_rank_zero(lambda: disk.call(_leave_token, folder))
    outside = [""] * dist.get_world_size()
    dist.all_gather_object(outside, "" if disk.remote or (folder / name).exists() else host)
    on_rank_zero(lambda: disk.call(Path.unlink, folder / name))
    if hosts := sorted({host for host in outside if host}):
        raise ConfigError(
            f"{', '.join(hosts)}: the workers there do not see {folder}, which the others work in; "
            "run.storage (or run.scratch, if that is a URL) must be a folder that all nodes share"
        )


def _leave_token(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    token = folder / f".seen-{uuid.uuid4().hex}"
    token.touch()
    return token.name


def attempt(action: Callable[[], T]) -> tuple[T | None, NezhaError | None]:
    """What an action returns, or its error as one that other ranks can raise too."""
    try:
        return action(), None
    except NezhaError as error:
        return None, error
    except Exception as error:  # whatever it is, the other ranks must not wait for ever
        logger.exception("rank %d failed", dist.get_rank())
        return None, CheckpointError(f"{type(error).__name__}: {error}")
