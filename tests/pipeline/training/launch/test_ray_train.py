"""The loop under Ray Train with two workers."""

import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import ray
from ray.exceptions import OutOfMemoryError
from ray.train.v2.api.exceptions import ControllerError

from pipeline.cluster.remote_disk import Offer
from pipeline.errors import ConfigError, Interrupted
from pipeline.paths import RunPaths
from pipeline.tracking import runs as tracking
from pipeline.tracking.store import tracking_uri
from pipeline.training.checkpoints import files as checkpoints
from pipeline.training.faults import events, stop, workers
from pipeline.training.launch import ray_train
from pipeline.training.launch.ray_failures import RestartOrStop
from tests.reported import Lines
from tests.small_run import losses, settings

pytestmark = pytest.mark.ray


@pytest.mark.long
def test_two_workers_train_report_and_resume(ray_cluster, tmp_path):
    config = settings(tmp_path, "two", "scaling.workers=2", "train.micro_batch=4")
    run_id = tracking.start_run(config, "two", {})
    shown = Lines()
    given = tracking_uri(config), run_id
    state = ray_train.fit(config, given, shown)
    assert state["step"] == 12
    assert any("held-out MLM" in line for line in shown)
    assert sum("tokens/s" in line for line in shown) == 6
    whole = losses(config)

    paths = RunPaths.of(config)
    checkpoints.remove(paths.checkpoints / "checkpoint_000012")
    ray_train.fit(config, None, shown)
    assert losses(config) == whole


def test_a_cluster_too_small_is_refused_at_once(ray_cluster, tmp_path):
    config = settings(tmp_path, "large", "scaling.workers=64", "train.global_batch=512")
    with pytest.raises(ConfigError, match="need 64 CPUs and the cluster has 4"):
        ray_train.fit(config, None, Lines())


def test_a_worker_larger_than_each_node_is_refused_at_once(ray_cluster, tmp_path):
    """The cluster has enough CPUs, but on two nodes: the run waited for ever."""
    node = ray_cluster.add_node(num_cpus=2)
    try:
        config = settings(tmp_path, "wide", "scaling.workers=1", "scaling.cpus_per_worker=5")
        needs = "5 CPUs each on one node, and the cluster's nodes have room for 0"
        with pytest.raises(ConfigError, match=f"1 worker.s. need {needs}"):
            ray_train.fit(config, None, Lines())
    finally:
        ray_cluster.remove_node(node)


@pytest.mark.slow
def test_a_run_that_waits_for_workers_says_so_and_can_be_stopped(
    ray_cluster, tmp_path, monkeypatch
):
    """It waited without a word, and only workers heeded a request to stop."""
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "2")
    config = settings(tmp_path, "waiting", "scaling.workers=2")
    run, shown = RunPaths.of(config).run, Lines()
    others = ray.util.placement_group([{"CPU": 3}])
    ray.get(others.ready())
    try:
        with ThreadPoolExecutor(1) as executor:
            fitted = executor.submit(ray_train.fit, config, None, shown)
            while not any("waiting for room" in line for line in shown):
                assert not fitted.done(), fitted.result()
                time.sleep(0.2)
            (run / stop.FILE).touch()
            with pytest.raises(
                Interrupted, match="no worker ran; the newest checkpoint: none yet;"
            ):
                fitted.result(60)
    finally:
        ray.util.remove_placement_group(others)
    assert [event["kind"] for event in events.read(run)] == ["waiting", "interrupted"]


def test_each_preemption_is_on_record_once(tmp_path):
    """Ray tells of a node again and again until it is gone; later, another node may be taken."""
    config = settings(tmp_path, "spot")
    run = RunPaths.of(config).run
    callback = RestartOrStop(config, Offer(str(run), "", "", None))
    lost = {1: SimpleNamespace(preempted=True)}
    for pid in (11, 11, 12):
        workers.write_workers(run, [workers.Worker("a", 1), workers.Worker("b", pid)])
        callback.after_exception(None, lost)
    told = [event["text"] for event in events.read(run)]
    assert told == ["the nodes of workers [1] were taken away; the workers restart"] * 2


@pytest.mark.parametrize("wrap", [ControllerError, lambda error: error])
def test_workers_or_a_controller_without_memory_are_told_in_a_line(wrap):
    """Forty lines of Ray's memory monitor stood there."""
    error = wrap(OutOfMemoryError("1 worker(s) were killed: low memory\nTop 10 users:"))
    told = str(ray_train._user_error(error))
    line = "training failed: OutOfMemoryError: 1 worker(s) were killed: low memory"
    assert told == f"{line}; the same command goes on"
