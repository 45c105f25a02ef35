"""A worker that ran out of memory: what it asked for, its peak, and which setting to lower."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pipeline.errors import TrainingError
from pipeline.settings.config import Config
from pipeline.training.measure.peak_memory import peak_bytes

MESSAGES = r"out of memory|can't allocate memory|unable to allocate|low on memory|\bOOM\b"
"""What CUDA, torch's allocator for CPUs, NumPy and Ray's memory monitor say."""
GUESSES = "Some common causes include"
"""What Ray writes before a list of causes, for each process that died; memory is one of them."""


class OutOfMemory(TrainingError):
    """The micro-batch, the network or the optimizer's state does not fit."""

    def __init__(self, message: str, micro_batch: int) -> None:
        super().__init__(message, micro_batch)
        self.micro_batch = micro_batch


@contextmanager
def explained(config: Config, device: torch.device) -> Iterator[None]:
    """Turn the errors of allocators into one that says what to do.

    Raises:
        OutOfMemory: there was such an error.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not ran_out(error):
            raise
        asked = re.search(r"allocate ([\d.,]+ \w+)", str(error))
        found = f"asked for {asked[1]} more" if asked else "the failed allocation's size is unknown"
        text = f"out of memory: {found}; the peak so far was {_peak(device)}; {advice(config)}"
        raise OutOfMemory(text, config.train.micro_batch) from error


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
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
