"""The Ray cluster that a verb runs on: the one it was submitted to, or a local one."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import signal
import tempfile
import threading

import ray

from pipeline.errors import ConfigError

PARENT = os.environ.get("RAY_TMPDIR")
"""Where local clusters have their folders; by default the system's temporary folder."""


def connect() -> None:
    """Join the cluster of RAY_ADDRESS (`ray job submit` sets it), or start a local one.

    A local cluster listens on this machine alone and, by Ray's default, asks for a token. It ends
    with this process, and its folder is removed. To join a cluster that asks for a token,
    RAY_AUTH_MODE=token must be in the environment before the start.
    """
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        # Ray Train asks "the newest cluster of this folder" whether its controller lives, and ends
        # the run if that is another one. In a folder of its own, there is no other one.
        folder = os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="nezha-", dir=PARENT)
        atexit.register(_remove_cluster, folder)
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    ray.init(address=address or "local", log_to_driver=False, logging_level=logging.WARNING)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own ends the process with a C++ stack


def require(workers: int, cpus: float, gpus: float) -> None:
    """Refuse a group of workers that the cluster can't hold now; Ray would wait without a message.

    A cluster that scales itself does not announce its limit, so its autoscaler decides instead.

    Raises:
        ConfigError: too few CPUs or GPUs.
    """
    if os.environ.get("NEZHA_AUTOSCALING") == "1":
        return
    for name, need in (("CPU", workers * cpus), ("GPU", workers * gpus)):
        if need > count(name):
            raise ConfigError(
                f"scaling: {workers} worker(s) need {need:g} {name}s and the cluster has "
                f"{count(name)}; lower scaling.workers or "
                f"scaling.{name.lower()}s_per_worker, or add nodes (an autoscaling cluster: set "
                "NEZHA_AUTOSCALING=1)"
            )


def count(resource: str) -> int:
    """Number of `CPU`s or `GPU`s in the cluster now."""
    return int(ray.cluster_resources().get(resource, 0))


def cpus_by_node() -> list[int]:
    """CPUs of each node that is alive now."""
    return [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]


def gpus_per_worker(wanted: float | None) -> float:
    """The setting, or one GPU where the cluster has any."""
    if wanted is not None:
        return wanted
    return 1.0 if count("GPU") else 0.0


def _remove_cluster(folder: str) -> None:
    """Stop the local cluster before its folder goes: its processes write there until they end."""
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
