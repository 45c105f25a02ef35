"""What the facts about nodes mean: pure functions from facts to findings."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

from pipeline.doctor.node import OWN_DISK, Facts

SHARED_MEMORY = 1.0
"""Gigabytes of /dev/shm; Docker gives 0.064 unless told otherwise."""
CLOCK_SECONDS = 5.0
SLOW = 0.7
"""Share of the median speed under which a node holds up the others."""
SLOW_STORAGE = 20.0
"""Megabytes a second."""


class Finding(NamedTuple):
    """One thing that is wrong, or that may hold up a run."""

    host: str
    """The node; empty: the cluster."""
    problem: str
    advice: str
    fatal: bool
    """A run can't work with it."""

    def __str__(self) -> str:
        return f"{self.host + ': ' if self.host else ''}{self.problem}; {self.advice}"


def judge(
    nodes: Sequence[Facts],
    failed: Mapping[str, str],
    asked: tuple[float, float],
    needed_disk: float = 0.0,
) -> list[Finding]:
    """Findings about nodes, each with what to do.

    Args:
        nodes: facts of the nodes that answered.
        failed: by name of each other node, why there are no facts.
        asked: start and end of the time in which the nodes read their clocks: seconds since the
            epoch by this node's clock.
        needed_disk: gigabytes that the shard cache may take; 0: it is not used.
    """
    found = [
        Finding(
            host,
            problem,
            "look at `ray status` and at the node's logs in /tmp/ray, or take the node out",
            True,
        )
        for host, problem in failed.items()
    ]
    usual = _usual_versions(nodes)
    speeds = [tflops for facts in nodes for _, tflops in facts.gpus if tflops]
    for facts in nodes:
        found += _of_node(facts, asked, needed_disk)
        if others := [name for name in usual if facts.versions[name] != usual[name]]:
            own, most = (
                ", ".join(f"{name} {each[name]}" for name in others)
                for each in (facts.versions, usual)
            )
            advice = f"most nodes have {most}; start it from the same image"
            found.append(Finding(facts.host, f"has {own}", advice, True))
        for index, (name, tflops) in enumerate(facts.gpus):
            gpu = f"GPU {index} ({name})"
            if not tflops:
                advice = "take the node out: its memory or its units are broken"
                found.append(Finding(facts.host, f"{gpu} computes wrongly", advice, True))
            elif tflops < SLOW * median(speeds):
                problem = f"{gpu} reaches {tflops:.0f} TFLOP/s, the median is {median(speeds):.0f}"
                advice = "look for heat, a power limit (`nvidia-smi -q -d PERFORMANCE`), other jobs"
                found.append(Finding(facts.host, problem, advice, False))
    counts = Counter(len(facts.gpus) for facts in nodes if facts.gpus)
    for facts in nodes:
        if facts.gpus and len(facts.gpus) < max(counts):
            problem = f"has {len(facts.gpus)} GPUs, other nodes have {max(counts)}"
            advice = "look for lost GPUs with `nvidia-smi` and `dmesg | grep Xid`"
            found.append(Finding(facts.host, problem, advice, False))
    return found


def _of_node(facts: Facts, asked: tuple[float, float], needed_disk: float) -> list[Finding]:
    found = []
    if facts.storage == OWN_DISK:
        advice = (
            "that works: its workers fetch what they read from the command's node and send it what "
            "they make; a disk that all nodes share is faster for large corpora"
        )
        found.append(Finding(facts.host, "does not see run.storage", advice, False))
    elif facts.storage:
        advice = "mount the same storage on every node, or give run.storage a URL"
        problem = f"can't use run.storage: {facts.storage}"
        found.append(Finding(facts.host, problem, advice, True))
    elif 0 < min(facts.written, facts.read) < SLOW_STORAGE:
        speed = f"writes {facts.written:.0f} and reads {facts.read:.0f} MB/s"
        advice = "checkpoints and shards will be slow; take storage that is nearer"
        found.append(Finding(facts.host, f"{speed} of run.storage", advice, False))
    if facts.shared_memory_gigabytes < SHARED_MEMORY:
        problem = f"/dev/shm has {facts.shared_memory_gigabytes:.2f} GB"
        advice = "start the container with --shm-size=16g, or mount an emptyDir of medium Memory"
        found.append(Finding(facts.host, problem, advice, False))
    differs = facts.clock - min(max(facts.clock, asked[0]), asked[1])
    if abs(differs) > CLOCK_SECONDS:
        problem = f"its clock differs by {differs:+.0f} s"
        advice = "start chrony or another NTP client; tokens and metrics need the time"
        found.append(Finding(facts.host, problem, advice, False))
    if facts.disk_gigabytes < needed_disk:
        problem = (
            f"{facts.disk_gigabytes:.0f} GB of disk are free, "
            f"the cache may take {needed_disk:.0f} GB"
        )
        advice = "lower train.shard_cache_gigabytes, or set train.shard_cache to a larger disk"
        found.append(Finding(facts.host, problem, advice, True))
    return found


def _usual_versions(nodes: Sequence[Facts]) -> Mapping[str, str]:
    """The version of each package that most nodes have."""
    names = nodes[0].versions if nodes else {}
    return {
        name: Counter(facts.versions[name] for facts in nodes).most_common(1)[0][0]
        for name in names
    }
