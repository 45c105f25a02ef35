"""Memory and threads of processes that compute on CPUs, and the CPUs that there are."""

import contextlib
import ctypes
import math
import os
from pathlib import Path

ENVIRONMENT = {
    # Threads that wait for each other sleep. By default they spin, which on cores that other
    # processes use too holds up the threads that they wait for: 0.6 steps a second against 8, and a
    # fine-tuning of one minute took half an hour.
    "OMP_WAIT_POLICY": "PASSIVE",
    # All threads allocate from one heap. Ray Train trains in a thread, whose own heap glibc gives
    # back to the kernel after each step, whatever `keep_freed_memory` asks for: a tenth of the
    # sample run's time.
    "MALLOC_ARENA_MAX": "1",
    # How many products in bf16 torch (the first) and oneDNN keep ready, one for each shape. Batches
    # without padding have ever new shapes, and with the default, 1,024 each, a worker grew by over
    # a gigabyte (`tests/benchmarks/RESULTS.md`). A step has fewer than 128 shapes.
    "LRU_CACHE_CAPACITY": "16",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",
}
"""What libraries read when a process starts, unless the user has set it."""
QUOTAS = (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"))
"""Files with the microseconds of a container's CPUs, and of the period; of cgroup 2, and of 1."""
# Parameters of mallopt, from malloc.h.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
KEPT = 1 << 30
LARGE = 32 << 20
"""Bytes of an array or a tensor; the largest value that every version of glibc accepts."""


def keep_freed_memory() -> None:
    """Make glibc keep the memory that a batch or a step frees, for the next one.

    By default glibc returns it to the kernel, which fills it with zeros before it gives it out
    again: a third of the feed's time, and 12 % of a short bf16 step on a CPU, were spent on that
    (`tests/benchmarks/feed.py`, `step.py`). Other C libraries are not changed.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(TRIM_THRESHOLD, KEPT)
        mallopt(MMAP_THRESHOLD, LARGE)


def use_threads(count: int) -> None:
    """Let torch and the tokenizer use so many threads in this process."""
    import torch  # most processes that read this file never load it

    torch.set_num_threads(count)
    os.environ["RAYON_NUM_THREADS"] = str(count)  # the tokenizer's


def usable_cpus() -> int:
    """CPUs that this process may use: by its affinity and by the quota of its container."""
    cpus = len(os.sched_getaffinity(0))
    for names in QUOTAS:
        with contextlib.suppress(OSError, ValueError):
            text = " ".join(Path("/sys/fs/cgroup", name).read_text() for name in names)
            quota, period = map(int, text.split())
            if quota > 0:  # -1: no limit
                cpus = min(cpus, math.ceil(quota / period))
    return max(1, cpus)
