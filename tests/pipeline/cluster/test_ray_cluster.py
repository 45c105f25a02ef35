"""The local cluster of a verb, and the wait for a cluster that starts nodes by itself."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import ray

from pipeline import cpu
from pipeline.cluster import ray_cluster as cluster
from pipeline.errors import ConfigError
from pipeline.settings.reading.config_file import load_config
from pipeline.settings.training import ScalingSettings
from tests.reported import Lines

ROOT = Path(__file__).parents[3]
PROGRAM = """
import os, sys
from pipeline.cluster import ray_cluster
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
ray_cluster.connect()
print(ray_cluster.cpus_by_node(), ray_cluster.count("CPU"))
if sys.argv[1] == "error":
    raise SystemExit("ended by an error")
"""


@pytest.mark.ray
@pytest.mark.parametrize("ending", ["return", "error"])
def test_a_local_cluster_leaves_no_folder(tmp_path, ending):
    environment = {
        k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN")
    }
    if ending == "return":
        environment["HOME"] = "/proc/none"  # Ray could not write its token there
    # Ray refuses long paths of sockets, so the parent can't be pytest's folder.
    parent = Path("/tmp", f"nz{os.getpid()}{ending[0]}")
    parent.mkdir()
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, ending],
            cwd=ROOT,
            env=environment | {"RAY_TMPDIR": str(parent)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == (1 if ending == "error" else 0), done.stderr
        assert done.stdout.split() == ["[1]", "1"]  # as many as the process may use
        assert list(parent.iterdir()) == []
    finally:
        parent.rmdir()


@pytest.mark.ray
def test_python_may_lie_in_a_folder_whose_name_has_a_space(tmp_path):
    """Ray did not quote its path, and a worker with an environment never came."""
    link = tmp_path / "我的 项目"
    link.symlink_to(sys.prefix)
    program = """
import ray
from pipeline.cluster import ray_cluster
ray_cluster.connect()
task = ray.remote(runtime_env=ray_cluster.runtime_env(0))(lambda: "done")
print(ray.get(task.remote(), timeout=60))
"""
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    python = link / "bin" / "python"
    done = subprocess.run(
        [python, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.stdout == "done\n", done.stderr


def test_a_long_path_of_temporary_files_is_left_to_others(monkeypatch):
    """Ray's sockets did not fit into the TMPDIR that Slurm gives a job."""
    monkeypatch.setattr(cluster, "PARENT", None)
    for folder, chosen in (
        ("/scratch/slurm.123", "/scratch/slurm.123"),
        ("/scratch/slurm_tmpdir.1234567", "/tmp"),
        ("/scratch/临时文件夹", "/tmp"),
    ):
        monkeypatch.setattr(cluster.tempfile, "gettempdir", lambda folder=folder: folder)
        assert cluster._parent() == chosen


def test_sigterm_while_ray_starts_is_a_stop(monkeypatch):
    """Ray ended the process with the status 15 and without a word."""

    def init(**_):
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))  # as Ray does
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        cluster.connect()
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("address", ["127.0.0.1:1", "[::1]:1", "no-such-host:6379", "somewhere"])
def test_an_address_without_a_cluster_is_told_at_once(address, monkeypatch):
    """Ray tried for 20 minutes, without a word."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setenv("RAY_gcs_server_port_wait_time_s", "2")  # which `connect` sets else
    with pytest.raises(ConfigError, match=f"^RAY_ADDRESS={re.escape(address)}: .* cannot be joi"):
        cluster.connect()


def test_a_cluster_that_does_not_start_here_is_told(monkeypatch, tmp_path):
    def init(**_):
        raise Exception("The current node timed out during startup.")  # as Ray does

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(cluster, "PARENT", str(tmp_path))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ConfigError, match="did not start on this machine: The current node timed"):
        cluster.connect()


@pytest.mark.ray
def test_workers_wait_for_a_node_that_comes(ray_cluster, monkeypatch):
    monkeypatch.setattr(cluster, "POLL_SECONDS", 0.2)
    said, told = [], threading.Event()

    def say(line):
        said.append(line)
        told.set()

    with ThreadPoolExecutor() as pool:
        placed = pool.submit(cluster.place, 1, 6, 0, 60, say)
        assert told.wait(30)
        node = ray_cluster.add_node(num_cpus=7)
        try:
            placed.result()
        finally:
            ray_cluster.remove_node(node)
    assert said[0] == ("waiting at most 60 s: 1 worker(s) need 6 CPUs and the cluster has 4")
    with pytest.raises(ConfigError, match="still need 64 CPUs and the cluster has"):
        cluster.place(8, 8, 0, 0.5, said.append)


@pytest.mark.ray
def test_tasks_take_gpus_that_the_cluster_starts(ray_cluster, monkeypatch):
    assert cluster.gpus_per_worker(None) == 0
    assert cluster.gpus_of_a_task(0.5) == 0
    scaling = ScalingSettings(workers=4, gpus_per_worker=1, wait_seconds=60)
    said = Lines()
    cluster.bring(2, 0.0, scaling, said.say)  # two CPUs are there
    cluster.bring(2, 0.5, ScalingSettings(gpus_per_worker=1), said.say)  # no node comes
    assert not said
    with ThreadPoolExecutor() as pool:
        brought = pool.submit(cluster.bring, 2, 0.5, scaling, said.say)
        deadline = time.monotonic() + 30
        while not said and time.monotonic() < deadline:
            time.sleep(0.1)
        node = ray_cluster.add_node(num_cpus=2, num_gpus=1)
        try:
            brought.result()
            assert cluster.gpus_of_a_task(0.5) == 0.5
            assert cluster.gpus_per_worker(None) == 1
            assert cluster.gpus_per_worker(0) == 0
        finally:
            ray_cluster.remove_node(node)
    assert said == ["waiting at most 60 s: 2 worker(s) need 1 GPUs and the cluster has 0"]
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    own = cpu.ENVIRONMENT | {"OMP_WAIT_POLICY": "ACTIVE"}
    assert cluster.runtime_env(0) == {"env_vars": {**own, "CUDA_VISIBLE_DEVICES": ""}}
    assert cluster.runtime_env(1) == {"env_vars": own}
    with pytest.raises(ConfigError, match="still need 1 GPUs and the cluster has 0"):
        cluster.place(1, 1, 1, 0.5, lambda line: None)


def test_a_wait_needs_a_known_group():
    with pytest.raises(ConfigError, match="waits for a known group of workers"):
        load_config(None, ["scaling.wait_seconds=60", "scaling.workers=2"])
    with pytest.raises(ConfigError, match="waits for a known group of workers"):
        load_config(None, ["scaling.wait_seconds=60", "scaling.gpus_per_worker=1"])
    named = ["scaling.workers=2", "scaling.gpus_per_worker=1"]
    assert load_config(None, ["scaling.wait_seconds=60", *named]).scaling.wait_seconds == 60


@pytest.mark.ray
def test_each_node_answers_or_tells_why_not(ray_cluster):
    node = ray_cluster.add_node(num_cpus=1)

    def answer(name, slow):
        if name == slow:
            time.sleep(60)
        return name

    def fail(name):
        raise TimeoutError(name)

    try:
        found, failed = cluster.on_each_node(answer, 60, "")
        first, second = found
        assert (found, failed) == ({first: first, second: second}, {})
        found, failed = cluster.on_each_node(answer, 10, second)
        assert found == {first: first}
        assert isinstance(failed[second], ray.exceptions.GetTimeoutError)
        _, failed = cluster.on_each_node(fail, 60)
        for error in failed.values():
            assert isinstance(error, ray.exceptions.RayTaskError)
            assert not isinstance(error, ray.exceptions.GetTimeoutError)
    finally:
        ray_cluster.remove_node(node)
