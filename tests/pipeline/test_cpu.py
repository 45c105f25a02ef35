import platform
import subprocess
import sys

import pytest

from pipeline import cpu

FAULTS = """
import resource
import sys
import torch
from torch import nn
from pipeline.cpu import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()
layers = [nn.Linear(256, 1024), nn.GELU(), nn.Linear(1024, 256)]
network, x = nn.Sequential(*layers * 6), torch.randn(512, 256)

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    network.zero_grad()
    network(x).sum().backward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(sum([faults() for _ in range(30)][15:]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it tunes glibc")
def test_a_step_requests_less_memory_from_the_kernel() -> None:
    pages = {}
    for kind in ("usual", "kept"):
        command = [sys.executable, "-c", FAULTS, kind]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        pages[kind] = int(done.stdout)
    assert pages["kept"] < pages["usual"] / 2, pages


def test_the_quota_of_a_container_counts(monkeypatch) -> None:
    """Of cgroup 1 none was seen: as many workers started as the host has CPUs."""
    monkeypatch.setattr(cpu.os, "sched_getaffinity", lambda _: set(range(64)))
    period = {"cpu/cpu.cfs_period_us": "100000"}
    for files, expected in (
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "max 100000"}, 64),
        ({"cpu/cpu.cfs_quota_us": "150000"} | period, 2),
        ({"cpu/cpu.cfs_quota_us": "-1"} | period, 64),
        ({}, 64),
    ):

        def read(path, found=files):
            name = str(path.relative_to("/sys/fs/cgroup"))
            if name not in found:
                raise FileNotFoundError(name)
            return found[name]

        monkeypatch.setattr(cpu.Path, "read_text", read)
        assert cpu.usable_cpus() == expected
