"""Ray's logs of a job, copied from all nodes to the run's folder before the cluster goes."""

import time
from pathlib import Path

import ray

from pipeline.cluster import ray_cluster, remote_disk, remote_files
from pipeline.files.storage import write_whole
from pipeline.progress import Say

FOLDER = "logs"
LARGEST_BYTES = 5 << 20
"""Of a file, its end is copied."""
COLLECT_SECONDS = 30.0


def collect(run: str, since: float, say: Say, offer: remote_disk.Offer) -> None:
    """Copy the logs of this job, of nodes that still answer; says where they lie.

    Args:
        run: the run's folder or its URL.
        since: logs that were written after this time count, in seconds since the epoch.
        say: takes a line.
        offer: of the run's folder.
    """
    job = ray.get_runtime_context().get_job_id()
    target = f"{run}/{FOLDER}/{time.strftime('%Y%m%d-%H%M%S')}"
    # That nodes give none is no reason for a run to fail.
    found, failed = ray_cluster.on_each_node(_copy, COLLECT_SECONDS, target, job, since, offer)
    copied = sum(found.values())
    missing = f"; {len(failed)} node(s) did not give theirs" if failed else ""
    if copied or failed:
        say(f"logs of the workers: {copied} files in {target}{missing}")


def _copy(node: str, target: str, job: str, since: float, offer: remote_disk.Offer) -> int:
    """Copy this node's logs of a job to a folder of its own; returns how many files."""
    folder = Path(ray._private.worker.global_worker.node.get_logs_dir_path())
    paths = [*folder.glob(f"worker-*-{job}-*.*"), *folder.glob("train/*.log")]
    found = [path for path in paths if path.stat().st_size and path.stat().st_mtime >= since]
    with remote_files.files_of(offer):
        for path in found:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - LARGEST_BYTES))
                write_whole(f"{target}/{node.replace('/', '-')}/{path.name}", file.read())
    return len(found)
