"""Ray's logs of a job, copied from all nodes to the run's folder before the cluster goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.cluster import remote_disk, remote_files
from pipeline.storage import write_whole

FOLDER = "logs"
LARGEST_BYTES = 5 << 20
"""Of a file, its end is copied."""
COLLECT_SECONDS = 30.0


def collect(run: str, since: float, say: Callable[[str], None], offer: remote_disk.Offer) -> None:
    """Copy the logs of this job, of nodes that still answer; says where they lie.

    Args:
        run: the run's folder or its URL.
        since: logs that were written after this time count, in seconds since the epoch.
        say: takes a line.
        offer: of the run's folder.
    """
    job = ray.get_runtime_context().get_job_id()
    target = f"{run}/{FOLDER}/{time.strftime('%Y%m%d-%H%M%S')}"
    nodes = [node for node in ray.nodes() if node["Alive"]]
    tasks = []
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        name = f"{node['NodeManagerAddress']}-{node['NodeID'][:6]}"
        copy = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(_copy)
        tasks.append(copy.remote(f"{target}/{name}", job, since, offer))
    done, late = ray.wait(tasks, num_returns=len(tasks), timeout=COLLECT_SECONDS)
    copied = 0
    for task in done:
        try:
            copied += ray.get(task)
        except ray.exceptions.RayError:
            late.append(task)  # a log must not be why a run fails
    missing = f"; {len(late)} node(s) did not give theirs" if late else ""
    if copied or late:
        say(f"logs of the workers: {copied} files in {target}{missing}")


def _copy(target: str, job: str, since: float, offer: remote_disk.Offer) -> int:
    """Copy this node's logs of a job; returns how many files."""
    folder = Path(ray._private.worker.global_worker.node.get_logs_dir_path())
    paths = [*folder.glob(f"worker-*-{job}-*.*"), *folder.glob("train/*.log")]
    found = [path for path in paths if path.stat().st_size and path.stat().st_mtime >= since]
    with remote_files.files_of(offer):
        for path in found:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - LARGEST_BYTES))
                write_whole(f"{target}/{path.name}", file.read())
    return len(found)
