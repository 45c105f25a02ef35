"""All nodes of the cluster: each by itself, then together."""

import os
import socket
import time
import uuid
from datetime import timedelta
from statistics import median
from typing import Any

import ray
import torch
import torch.distributed as dist
from ray._private.authentication.authentication_utils import is_token_auth_enabled

from pipeline.cluster.interfaces import use_interface_of
from pipeline.cluster.ray_cluster import alive, connect, on_each_node, on_node
from pipeline.corpus.shards import format as shards
from pipeline.doctor.findings import Finding, judge
from pipeline.doctor.node import Facts, examine
from pipeline.errors import ConfigError, ShardError, raise_all
from pipeline.feed.opening import training_folders
from pipeline.files.storage import filesystem
from pipeline.files.urls import is_url
from pipeline.settings.config import Config
from pipeline.tracking.store import is_reachable, shown_uri

NODE_SECONDS = 30.0
"""How long nodes have for their answer, once a worker process runs there."""
START_SECONDS = 30.0
"""How long the start of a worker process may take."""
TOGETHER_SECONDS = 60
"""How long the processes of the all-reduce wait for each other."""
REDUCED_BYTES = 64 << 20
ROUNDS = 5


def examine_nodes(config: Config, quick: bool) -> tuple[list[Facts], list[Finding]]:
    """Facts and findings about each node alone; nodes do not wait for one another.

    Raises:
        ConfigError: this node can't write to the storage.
    """
    connect()
    marker = f".doctor-{uuid.uuid4().hex}"
    system, folder = filesystem(config.run.storage)
    try:
        system.makedirs(folder, exist_ok=True)
        system.pipe_file(f"{folder}/{marker}", b"")
    except OSError as error:
        raise ConfigError(f"run.storage={config.run.storage} can't be written: {error}") from None
    try:
        wanted = (config.run.storage, marker, config.train.shard_cache, quick)
        before = time.time()
        found, errors = on_each_node(examine, START_SECONDS + NODE_SECONDS, *wanted)
        asked = before, time.time()
    finally:
        system.rm_file(f"{folder}/{marker}")
    facts, failed = list(found.values()), {}
    for name, each in errors.items():
        late = isinstance(each, ray.exceptions.GetTimeoutError)
        failed[name] = "does not answer" if late else f"can't be examined: {_line(each)}"
    remote = any(is_url(folder) for folder in training_folders(config))
    return facts, judge(facts, failed, asked, config.train.shard_cache_gigabytes * remote)


def refuse_bad_nodes(config: Config) -> list[str]:
    """The quick form, for a run on several nodes: warnings about them.

    Raises:
        ConfigError: nodes with which the run can't work, by name.
    """
    if len(alive()) < 2:
        return []
    _, found = examine_nodes(config, quick=True)
    fatal = [str(each) for each in found if each.fatal]
    raise_all(ConfigError, fatal, advice="jobs.doctor examines all nodes in full")
    return [str(each) for each in found]


def check_shared(config: Config) -> list[Finding]:
    """Findings about what all nodes share: token, MLflow, shard cache."""
    found = []
    if not is_token_auth_enabled():
        advice = "start every node with RAY_AUTH_MODE=token and the same token (cluster/README.md)"
        found.append(Finding("", "whoever reaches the cluster may run code on it", advice, False))
    if not is_reachable(config):
        advice = "start it, or correct tracking.uri; without it, a run sends its record at the end"
        found.append(Finding("", f"{shown_uri(config)} does not answer", advice, False))
    cache = config.train.shard_cache_gigabytes
    for folder in training_folders(config):
        if not is_url(folder) or config.train.window_shards:
            continue
        try:
            size = shards.read_manifest(folder).bytes / 1e9
        except (ShardError, OSError) as error:
            advice = "prepare the corpus first, or correct train.shards"
            found.append(Finding("", f"{folder}: {error}", advice, True))
            continue
        if size > cache:
            advice = "raise train.shard_cache_gigabytes, or set train.window_shards"
            problem = f"{folder} has {size:.0f} GB and the cache of a node {cache:g} GB"
            found.append(Finding("", problem, advice, False))
    return found


def bandwidth(gpus: bool) -> tuple[float, int]:
    """Bus bandwidth of an all-reduce in GB/s, and the number of processes; 0 where there is one.

    One process for each GPU, else one on each node. Bus bandwidth is 2·(n-1)/n of the bytes over
    the time, as NVIDIA's nccl-tests have it.

    Raises:
        ConfigError: the processes do not find each other, with what gloo or NCCL said.
    """
    places = [node for node in alive() for _ in range(_processes(node, gpus))]
    size = len(places)
    if size < 2:
        return 0.0, size
    first = places[0]["NodeID"]
    try:
        found = on_node(first, _address).remote()
        address, port = ray.get(found, timeout=START_SECONDS + NODE_SECONDS)
        tasks = [
            on_node(node["NodeID"], _all_reduce, gpus).remote(rank, size, address, port, gpus)
            for rank, node in enumerate(places)
        ]
        seconds = max(ray.get(tasks, timeout=START_SECONDS + TOGETHER_SECONDS))
    except ray.exceptions.RayError as error:
        raise ConfigError(
            f"{size} processes on {len(alive())} nodes do not reach each other: "
            f"{_line(error)}; open all ports between the nodes, or set NCCL_SOCKET_IFNAME and "
            "GLOO_SOCKET_IFNAME"
        ) from None
    return 2 * (size - 1) / size * REDUCED_BYTES / seconds / 1e9, size


def _processes(node: dict[str, Any], gpus: bool) -> int:
    return int(node["Resources"].get("GPU", 0)) if gpus else 1


def _line(error: Exception) -> str:
    """What an error says; in a task it stands below the traceback, and Ray's own say it first."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1 if isinstance(error, ray.exceptions.RayTaskError) else 0]


def _address() -> tuple[str, int]:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return ray.util.get_node_ip_address(), probe.getsockname()[1]


def meeting_point(address: str, port: int) -> str:
    """The URL at which processes meet; an address of IPv6 stands in brackets there."""
    return f"tcp://[{address}]:{port}" if ":" in address else f"tcp://{address}:{port}"


def _all_reduce(rank: int, size: int, address: str, port: int, gpus: bool) -> float:
    """Median seconds of an all-reduce, in one of its processes."""
    use_interface_of(ray.util.get_node_ip_address())
    os.environ.setdefault("NCCL_DEBUG", "WARN")
    dist.init_process_group(
        "nccl" if gpus else "gloo",
        init_method=meeting_point(address, port),
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=TOGETHER_SECONDS),
    )
    try:
        device = torch.device("cuda" if gpus else "cpu")
        data = torch.ones(REDUCED_BYTES // 4, device=device)
        return median(_timed(data) for _ in range(ROUNDS))
    finally:
        dist.destroy_process_group()


def _timed(data: torch.Tensor) -> float:
    dist.barrier()
    start_time = time.monotonic()
    dist.all_reduce(data)
    if data.is_cuda:
        torch.cuda.synchronize()
    return time.monotonic() - start_time
