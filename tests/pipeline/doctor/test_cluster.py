"""The nodes of a real cluster are examined, each alone and together."""

import os
import time
from urllib.parse import urlsplit

import psutil
import pytest
import ray

from pipeline.cluster import ray_cluster as cluster
from pipeline.doctor import cluster as doctor
from pipeline.errors import ConfigError
from pipeline.settings.reading.config_file import load_config

pytestmark = pytest.mark.ray


@pytest.fixture
def two_nodes(ray_cluster):
    node = ray_cluster.add_node(num_cpus=1)
    yield
    ray_cluster.remove_node(node)


def test_nodes_alone_and_together(two_nodes, tmp_path, monkeypatch):
    config = load_config(None, [f"run.storage={tmp_path}"])
    facts, found = doctor.examine_nodes(config, quick=False)
    assert len(facts) == 2
    assert not any(each.fatal for each in found)
    assert all(each.written > 0 for each in facts)
    assert list(tmp_path.iterdir()) == []  # nothing stays behind
    speed, size = doctor.bandwidth(gpus=False)
    assert size == 2
    assert speed > 0
    assert not any("does not answer" in line for line in doctor.refuse_bad_nodes(config))

    monkeypatch.setattr(doctor, "START_SECONDS", 0)
    monkeypatch.setattr(doctor, "NODE_SECONDS", 0)
    with pytest.raises(ConfigError, match=r"/\w{6}: does not answer"):
        doctor.refuse_bad_nodes(config)


def test_the_process_of_an_examination_ends(ray_cluster):
    """It sees all GPUs, and torch keeps memory of each that it used for as long as it lives."""
    node = cluster.alive()[0]["NodeID"]
    pid = ray.get(cluster.on_node(node, lambda: os.getpid()).remote())
    deadline = time.monotonic() + 20
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not psutil.pid_exists(pid)


def test_nodes_that_give_no_address_in_time_are_told(two_nodes, monkeypatch):
    monkeypatch.setattr(doctor, "_address", lambda: time.sleep(60))
    monkeypatch.setattr(doctor, "START_SECONDS", 0)
    monkeypatch.setattr(doctor, "NODE_SECONDS", 1)
    with pytest.raises(ConfigError, match="2 processes on 2 nodes do not reach each other"):
        doctor.bandwidth(gpus=False)


def test_a_node_whose_examination_fails_tells_why(ray_cluster, tmp_path, monkeypatch):
    def examine(*_):
        raise RuntimeError("the driver is too old")

    monkeypatch.setattr(doctor, "examine", examine)
    _, found = doctor.examine_nodes(load_config(None, [f"run.storage={tmp_path}"]), quick=True)
    (problem,) = {each.problem for each in found}
    assert problem == "can't be examined: RuntimeError: the driver is too old"


def test_processes_meet_at_an_address_of_ipv6():
    """Without brackets its colons were taken for a port."""
    for address in ("192.0.2.1", "2001:db8::1"):
        found = urlsplit(doctor.meeting_point(address, 4000))
        assert (found.hostname, found.port) == (address, 4000)


def test_what_all_share(ray_cluster, tmp_path):
    gone = ["tracking.uri=http://127.0.0.1:9", "train.shards=[memory://no@where/shards@0.5]"]
    config = load_config(None, [f"run.storage={tmp_path}", *gone])
    problems = [each.problem for each in doctor.check_shared(config)]
    assert problems[0] == "http://127.0.0.1:9 does not answer"
    assert problems[1].startswith("memory://no@where/shards: ")
