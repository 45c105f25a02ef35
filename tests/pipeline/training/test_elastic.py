"""An elastic run uses nodes as they come and go, and has the loss curve of a steady run."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import ray.train
from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
    get_or_create_autoscaling_coordinator,
)

from pipeline.errors import ConfigError
from pipeline.paths import RunPaths
from pipeline.training.checkpoints import files as checkpoints
from pipeline.training.launch import ray_train, ray_worker
from tests.pipeline.training import worlds
from tests.reported import Lines
from tests.small_run import fit, losses, settings

CPUS = 3
"""CPUs of a worker: the shared cluster's first node has room for one."""
HELD = {"checkpoint_000006": 1, "checkpoint_000012": 2}


def held_worker(given):
    """A worker in a group of that size waits after these checkpoints until it is ended.

    So the run meets the nodes that come and go, however fast it is.
    """
    report = ray_worker._report

    def hold(scores, folder):
        report(scores, folder)
        while HELD.get(folder.name) == ray.train.get_context().get_world_size():
            time.sleep(0.1)

    ray_worker._report = hold
    return worker(given)


worker = ray_worker.run


def workers_at(path):
    """Number of workers that made a checkpoint; 0 while it does not exist."""
    state = path / checkpoints.STATE
    return json.loads(state.read_text("utf-8"))["engine"]["workers"] if state.exists() else 0


def wait_for(path, workers, run):
    while workers_at(path) != workers:
        assert not run.done(), run.result()
        time.sleep(1.0)
        # Ray counts its nodes every 20 seconds; asked so, at once.
        coordinator = get_or_create_autoscaling_coordinator()
        ray.get(coordinator.get_reserved_resources.remote("", recompute=True))


@pytest.mark.long
@pytest.mark.ray
def test_a_run_grows_and_shrinks_with_the_cluster(ray_cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_worker, "run", held_worker)
    monkeypatch.setattr(ray_train, "RESIZE_SECONDS", 1.0)
    # If Ray notices late that the node is gone, it would wait for it.
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "3")
    common = "train.log_every=1", "train.steps=18", "train.eval_every=18"
    bounds = "scaling.min_workers=1", "scaling.max_workers=2", f"scaling.cpus_per_worker={CPUS}"
    config = settings(tmp_path, "elastic", *common, *bounds)
    folder = RunPaths.of(config).checkpoints
    paths = [folder / f"checkpoint_{step:06d}" for step in (6, 12, 18)]
    with ThreadPoolExecutor(1) as executor:
        run = executor.submit(ray_train.fit, config, None, Lines())
        wait_for(paths[0], 1, run)
        node = ray_cluster.add_node(num_cpus=CPUS)
        try:
            wait_for(paths[1], 2, run)
        finally:
            ray_cluster.remove_node(node)
        wait_for(paths[2], 1, run)
        assert run.result()["step"] == 18
    steady = settings(tmp_path, "steady", *common)
    fit(steady)
    curve = losses(config)
    assert len(curve) == 18
    assert worlds.distance(curve, losses(steady)) < 1e-4


def test_a_batch_too_small_for_the_largest_number_is_refused(ray_cluster, tmp_path):
    bounds = "scaling.min_workers=1", "scaling.max_workers=20"
    config = settings(tmp_path, "small", *bounds)
    with pytest.raises(ConfigError, match="without a sample when there are 17 "):
        ray_train.fit(config, None, Lines())
