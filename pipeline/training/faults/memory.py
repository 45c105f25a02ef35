"""A worker that ran out of memory: what it asked for, its peak, and which setting to lower."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pipeline.errors import TrainingError
from pipeline.settings.config import Config
from pipeline.training.measure.peak_memory import peak_bytes

MESSAGES = (
    r"out of memory|can(no|')t allocate memory|unable to allocate|low on memory|\bOOM\b"
    r"|bad_alloc|STATUS_ALLOC_FAILED"
)
"""What CUDA and its libraries, Linux, torch's allocator for CPUs, C++, NumPy and Ray's memory
monitor say."""
GUESSES = "Some common causes include"
"""What Ray writes before a list of causes, for each process that died; memory is one of them."""


class OutOfMemory(TrainingError):
    """The micro-batch, the network or the optimizer's state does not fit."""

    def __init__(self, message: str, micro_batch: int | None) -> None:
        super().__init__(message, micro_batch)
        self.micro_batch = micro_batch
        """None: it was not the cause, as memory ran out before the first batch."""


@contextmanager
def explained(config: Config, device: torch.device, begun: bool = True) -> Iterator[None]:
    """Turn the errors of allocators into one that says what to do.

    Args:
        begun: whether batches are read. Before, smaller ones would not help.

    Raises:
        OutOfMemory: there was such an error.
    """
    try:
        yield
    # torch.OutOfMemoryError is a RuntimeError.
    except (MemoryError, OSError, RuntimeError) as error:
        if not ran_out(error):
            raise
        asked = re.search(r"allocate ([\d.,]+ \w+)", str(error))
        found = f"asked for {asked[1]} more" if asked else "the failed allocation's size is unknown"
        text = f"out of memory: {found}; the peak so far was {_peak(device)}; "
        if begun:
            raise OutOfMemory(text + advice(config), config.train.micro_batch) from error
        text += (
            "the network and the optimizer's state do not fit: raise engine.zero_stage or "
            "scaling.workers, set engine.offload=true on GPUs, or take a smaller model"
        )
        raise OutOfMemory(text, None) from error


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):  # its text may hold any path
        return error.errno == errno.ENOMEM
    known = str(error).partition(GUESSES)[0]
    return re.search(MESSAGES, known, re.IGNORECASE) is not None


def advice(config: Config) -> str:
    """Which settings to change; `config` has the micro-batch that did not fit."""
    size = config.train.micro_batch
    if size > 1:
        text = f"lower train.micro_batch (now {size}; the global batch stays)"
        shrinks = config.faults.shrink_on_oom
        return text if shrinks else f"{text}, or set faults.shrink_on_oom=true"
    return (
        "set engine.activation_checkpointing=true, raise engine.zero_stage or scaling.workers, "
        "or prepare shorter samples (corpus.sequence_length)"
    )


def _peak(device: torch.device) -> str:
    peak = _gib(peak_bytes(device))
    if device.type == "cuda":
        return f"{peak} of {_gib(torch.cuda.get_device_properties(device).total_memory)}"
    return peak


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
