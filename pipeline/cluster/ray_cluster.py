"""The Ray cluster that a verb runs on: the one it was submitted to, or a local one."""

import atexit
import logging
import os
import secrets
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
import ray.util
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.cpu import ENVIRONMENT, usable_cpus
from pipeline.errors import ConfigError
from pipeline.progress import Say
from pipeline.settings.training import ScalingSettings

PARENT = os.environ.get("RAY_TMPDIR")
"""Where local clusters have their folders; by default the system's temporary folder."""
LONGEST_PARENT = 23
"""Bytes of that folder's path: Ray adds 84 to it, and the path of a socket has 107 at most."""
ANSWER_SECONDS = 10.0
"""How long the port of a cluster may take to answer."""
IN_USE = "what others use on this cluster"
"""What a group of workers waits for that would fit if nothing else ran."""
POLL_SECONDS = 5.0
"""Seconds between two looks at what a cluster lacks."""
logger = logging.getLogger(__name__)


def connect() -> None:
    """Join the cluster of RAY_ADDRESS (`ray job submit` sets it), or start a local one.

    A local cluster listens on this machine alone and, by Ray's default, asks for a token. It ends
    with this process, and its folder is removed. To join a cluster that asks for a token,
    RAY_AUTH_MODE=token must be in the environment before the start.

    Raises:
        ConfigError: no cluster answers at the address, or it does not let this process in; or Ray
            does not start here.
    """
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS")
    if address:
        _check_answers(address)
        # Ray tries 20 times, for up to 80 seconds each.
        os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "2")
    else:
        # Ray Train asks "the newest cluster of this folder" whether its controller lives, and ends
        # the run if that is another one. In a folder of its own, there is no other one.
        folder = os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="nezha-", dir=_parent())
        atexit.register(_remove_cluster, folder)
        named = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()
        if not named and not os.access(os.path.expanduser("~"), os.W_OK):
            # Ray would write one into the home folder, which containers may not have.
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    # Ray Train then shows runs, attempts and workers in the dashboard.
    os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "1")
    # Notices of a node that has lost a worker, which Ray prints, go into logs too.
    os.environ.setdefault("RAY_COLOR_PREFIX", "0")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    # Processes of a local cluster inherit it. A terminal that closes, systemd and Slurm signal all
    # processes of a command, and these must not end before a checkpoint is written.
    blocked = set() if address else {signal.SIGHUP, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        ray.init(
            address=address or "local",
            # Ray's own count of a local machine leaves out the affinity of this process.
            num_cpus=None if address else usable_cpus(),
            runtime_env=_quoted_python(),
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
    except SystemExit:  # how Ray ends a process that gets SIGTERM meanwhile
        raise KeyboardInterrupt from None
    except Exception as error:  # on a busy machine, Ray raises none of its own kinds
        raise ConfigError(_not_joined(address, error)) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own ends the process with a C++ stack
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _quoted_python() -> dict[str, str] | None:
    """Ray's environment for an interpreter whose path a shell would take apart, as at a space.

    Ray starts a worker that has an environment by a line of bash, with this path as it is.
    """
    quoted = shlex.quote(sys.executable)
    return None if quoted == sys.executable else {"py_executable": quoted}


def _parent() -> str:
    """The folder for a local cluster's folder: /tmp where the system's has too long a path."""
    wanted = PARENT or tempfile.gettempdir()
    return wanted if len(os.fsencode(wanted)) <= LONGEST_PARENT else "/tmp"


def _check_answers(address: str) -> None:
    """Refuse `host:port` where nothing listens; other forms of addresses are Ray's to judge."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or "/" in host:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(_not_joined(address, error)) from error


def _not_joined(address: str | None, error: Exception) -> str:
    what = str(error).strip() or type(error).__name__
    if not address:
        return f"Ray did not start on this machine: {what}\nTry again when less runs on it."
    return (
        f"RAY_ADDRESS={address}: this Ray cluster cannot be joined: {what}\n"
        "Start it (`ray start --head`), or leave RAY_ADDRESS out to use this machine alone. If it "
        "asks for a token, RAY_AUTH_MODE=token and the token must be set here too."
    )


def place(workers: int, cpus: float, gpus: float, wait_seconds: float, say: Say) -> None:
    """Return when the cluster can hold a group of workers.

    With `wait_seconds`, the workers are asked of the cluster as a placement group, which is what an
    autoscaler starts nodes for, and a line says what is missing. Nothing smaller is ever taken.

    Raises:
        ConfigError: too few CPUs or GPUs, now or after `wait_seconds`.
    """
    bundle = bundle_of(cpus, gpus)
    if not wait_seconds:
        require(workers, bundle)
        return
    group = ray.util.placement_group([bundle] * workers, strategy="PACK")
    deadline = time.monotonic() + wait_seconds
    try:
        said = ""
        while not group.wait(min(POLL_SECONDS, max(0.1, deadline - time.monotonic()))):
            lack = lacking(workers, bundle) or IN_USE
            if time.monotonic() >= deadline:
                raise ConfigError(
                    f"scaling: after scaling.wait_seconds={wait_seconds:g} {workers} worker(s) "
                    f"still need {lack}; look for the autoscaler's reason in `ray status`, "
                    "lower the number of workers, or raise scaling.wait_seconds"
                )
            if lack != said:
                say(f"waiting at most {wait_seconds:g} s: {workers} worker(s) need {lack}")
                said = lack
    finally:
        # The nodes stay for a while, so that Ray Train's own placement group finds them.
        ray.util.remove_placement_group(group)


def bring(tasks: int, gpus: float, scaling: ScalingSettings, say: Say) -> None:
    """With `scaling.wait_seconds`, return when nodes are there that hold so many tasks together.

    Ray does not tell which nodes an autoscaler could start, so `scaling` says whether these have
    GPUs. The nodes may be busy: tasks wait for room.

    Args:
        tasks: each has `scaling.cpus_per_worker` CPUs.
        gpus: those of a task, if `scaling.gpus_per_worker` is not 0.

    Raises:
        ConfigError: too few CPUs or GPUs after `scaling.wait_seconds`.
    """
    gpus = gpus if scaling.gpus_per_worker else 0.0
    bundle = bundle_of(scaling.cpus_per_worker, gpus)
    if scaling.wait_seconds and lacking(tasks, bundle):
        place(tasks, scaling.cpus_per_worker, gpus, scaling.wait_seconds, say)


def require(
    workers: int, bundle: Mapping[str, float], nodes: Sequence[Mapping[str, float]] = ()
) -> None:
    """Raise ConfigError for a group of workers that does not fit; arguments as for `lacking`."""
    if lack := lacking(workers, bundle, nodes):
        raise ConfigError(
            f"scaling: {workers} worker(s) need {lack}; lower scaling.workers or "
            "scaling.cpus_per_worker, or add nodes (on a cluster that starts nodes by itself, "
            "set scaling.wait_seconds)"
        )


def lacking(
    workers: int, bundle: Mapping[str, float], nodes: Sequence[Mapping[str, float]] = ()
) -> str:
    """What a cluster lacks for a group of workers; empty if nothing.

    Args:
        workers: workers of the group.
        bundle: CPUs and GPUs of each, which must be on one node.
        nodes: those of each node; none: of the cluster that this process has joined.
    """
    nodes = nodes or [node["Resources"] for node in alive()]
    have = {name: sum(node.get(name, 0) for node in nodes) for name in bundle}
    few = " and ".join(
        f"{workers * each:g} {name}s and the cluster has {have[name]:g}"
        for name, each in bundle.items()
        if workers * each > have[name]
    )
    # Rounding must not take a worker away: 1 / 0.1 is 9 in Python's whole division.
    room = sum(
        int(min(node.get(name, 0) / each for name, each in bundle.items()) + 1e-9) for node in nodes
    )
    if few or room >= workers:
        return few
    each = " and ".join(f"{number:g} {name}s" for name, number in bundle.items())
    return f"{each} each on one node, and the cluster's nodes have room for {room}"


def bundle_of(cpus: float, gpus: float) -> dict[str, float]:
    """CPUs and GPUs of a worker, as Ray reserves them; without GPUs it names none."""
    return {"CPU": cpus} | ({"GPU": gpus} if gpus else {})


def count(resource: str) -> int:
    """Number of `CPU`s or `GPU`s in the cluster now."""
    return int(ray.cluster_resources().get(resource, 0))


def warn_if_empty() -> None:
    """Warn where no node has a CPU: tasks wait for a node then, without a word of Ray."""
    if not count("CPU"):
        logger.warning("the cluster has no CPU now; waiting for a node (`ray status`)")


def alive() -> list[dict[str, Any]]:
    """The nodes of the cluster that work, the one of the driver included."""
    return [node for node in ray.nodes() if node["Alive"]]


def cpus_by_node() -> list[int]:
    """CPUs of each node that is alive now."""
    return [int(node["Resources"].get("CPU", 0)) for node in alive()]


def on_node(node: str, function: Callable[..., Any], gpu: bool = False) -> Any:
    """The function as a task on a node, which may be full: it takes no CPU.

    Its process ends after it: an idle one would keep what torch holds of each GPU that it used.
    """
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    options = {"num_cpus": 0, "num_gpus": int(gpu), "scheduling_strategy": there}
    return ray.remote(max_calls=1, max_retries=0, **options)(function)


def on_each_node(
    function: Callable[..., Any], seconds: float, *arguments: Any
) -> tuple[dict[str, Any], dict[str, Exception]]:
    """What `function(name, *arguments)` returns on each node, by the node's name `ADDRESS/ID`.

    Nodes do not wait for one another. The errors of the others are a GetTimeoutError of a node that
    has not answered after `seconds`, and another RayError of one that is lost or where the function
    raised an error.
    """
    tasks = {
        f"{node['NodeManagerAddress']}/{node['NodeID'][:6]}": on_node(node["NodeID"], function)
        for node in alive()
    }
    tasks = {name: task.remote(name, *arguments) for name, task in tasks.items()}
    ray.wait(list(tasks.values()), num_returns=len(tasks), timeout=seconds)
    found, failed = {}, {}
    for name, task in tasks.items():
        try:
            found[name] = ray.get(task, timeout=0)
        except ray.exceptions.RayError as error:
            failed[name] = error
    # Tasks that hang end with the job; to cancel one that is just ending crashes Ray 2.60.
    return found, failed


def may_have_other_nodes() -> bool:
    """Whether tasks of this process may run on other nodes, now or later."""
    return bool(os.environ.get("RAY_ADDRESS")) or len(cpus_by_node()) > 1


def gpus_per_worker(wanted: float | None) -> float:
    """The setting, or one GPU where the cluster has any."""
    if wanted is not None:
        return wanted
    return 1.0 if count("GPU") else 0.0


def gpus_of_a_task(wanted: float) -> float:
    """GPUs to ask for: those wanted, or none where the cluster has none."""
    return wanted if count("GPU") else 0.0


def runtime_env(gpus: float) -> dict[str, dict[str, str]]:
    """Ray's environment for tasks with so many GPUs, also on nodes that were started elsewhere.

    Ray lets tasks that ask for no GPU see all GPUs of a machine, so they are hidden.
    """
    variables = {name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()}
    if not gpus:
        variables["CUDA_VISIBLE_DEVICES"] = ""
    return {"env_vars": variables}


def _remove_cluster(folder: str) -> None:
    """Stop the local cluster before its folder goes: its processes write there until they end."""
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
