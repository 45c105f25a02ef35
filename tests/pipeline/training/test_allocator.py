import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from pipeline.training.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(5 << 18) for _ in range(4)]
    del tensors
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

usual = [faults() for _ in range(5)][-1]
keep_freed_memory()
print(usual, [faults() for _ in range(20)][-1])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it tunes glibc")
def test_memory_that_was_freed_is_had_again_without_the_kernel() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True
    )
    usual, kept = map(int, done.stdout.split())
    assert usual > 1000  # pages of 4 KiB
    assert kept < 50
