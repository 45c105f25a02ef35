"""What counts as running out of memory, and what is said about it."""

import numpy as np
import pytest
import torch

from pipeline.settings.config import Config
from pipeline.training.faults.memory import OutOfMemory, explained, ran_out

CPU = torch.device("cpu")


def test_errors_of_real_allocators_are_explained():
    said = r"asked for [\d.]+ \w+ more; the peak so far was"
    for allocate in (torch.empty, np.empty):
        with pytest.raises(OutOfMemory, match=said), explained(Config(), CPU):
            allocate(2**50)


def test_smaller_batches_are_not_advised_before_the_first_one():
    error = RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)")
    with pytest.raises(OutOfMemory) as raised, explained(Config(), CPU, begun=False):
        raise error
    assert "raise engine.zero_stage" in str(raised.value)
    assert "micro_batch" not in str(raised.value)
    assert raised.value.micro_batch is None
    with pytest.raises(OutOfMemory), explained(Config(), CPU):
        raise OSError(12, "Cannot allocate memory")
    assert not ran_out(FileNotFoundError(2, "No such file or directory", "/data/OOM/a.txt"))


def test_other_errors_are_left_alone():
    with pytest.raises(RuntimeError, match="no room"), explained(Config(), CPU):
        raise RuntimeError("no room for these shapes")


def test_what_ray_guesses_of_any_death_is_no_sign_of_short_memory():
    died = (
        "The actor died unexpectedly before finishing this task. Worker exit type: SYSTEM_ERROR "
        "Worker exit detail: Worker unexpectedly exits with a connection error code 2. Some common "
        "causes include: (1) the process was killed by the OOM killer due to high memory usage, "
        "(2) ray stop --force was called"
    )
    assert not ran_out(RuntimeError(died))
    assert ran_out(RuntimeError("Task was killed due to the node running low on memory."))


def test_one_sample_at_a_time_needs_another_setting():
    config = Config.model_validate({"train": {"micro_batch": 1}})
    with pytest.raises(OutOfMemory, match="activation_checkpointing"), explained(config, CPU):
        raise MemoryError
