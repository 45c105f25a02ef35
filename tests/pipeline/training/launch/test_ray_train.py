"""The loop under Ray Train with two workers."""

from types import SimpleNamespace

import pytest

from pipeline.cluster.remote_disk import Offer
from pipeline.errors import ConfigError
from pipeline.paths import RunPaths
from pipeline.tracking import runs as tracking
from pipeline.tracking.store import tracking_uri
from pipeline.training.checkpoints import files as checkpoints
from pipeline.training.faults import events, workers
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
