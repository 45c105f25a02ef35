"""The loop under Ray Train with two workers."""

import pytest

from pipeline.errors import ConfigError, NezhaError
from pipeline.paths import RunPaths
from pipeline.tracking import runs as tracking
from pipeline.training.checkpoints import files as checkpoints
from pipeline.training.launch import ray_train
from tests.pipeline.training.test_loop import losses, settings

pytestmark = pytest.mark.ray


@pytest.mark.long
def test_two_workers_train_report_and_resume(ray_cluster, tmp_path):
    config = settings(tmp_path, "two", "scaling.workers=2", "train.micro_batch=4")
    run_id = tracking.start_run(config, "two", {})
    shown: list[str] = []
    given = tracking.tracking_uri(config), run_id
    state = ray_train.fit(config, given, shown.append, shown.append)
    assert state["step"] == 12
    assert any("held-out MLM" in line for line in shown)
    assert sum("tokens/s" in line for line in shown) == 6
    whole = losses(config)

    paths = RunPaths.of(config)
    checkpoints.remove(paths.checkpoints / "checkpoint_000012")
    ray_train.fit(config, None, shown.append, shown.append)
    assert losses(config) == whole


@pytest.mark.long
def test_a_users_mistake_in_a_worker_is_reported_unchanged(ray_cluster, tmp_path):
    config = settings(tmp_path, "broken")
    (RunPaths.of(config).shards / "manifest.json").write_text("{}", "utf-8")
    with pytest.raises(NezhaError, match="damaged"):
        ray_train.fit(config, None, lambda _: None, lambda _: None)


def test_a_cluster_too_small_is_refused_at_once(ray_cluster, tmp_path):
    config = settings(tmp_path, "large", "scaling.workers=64", "train.global_batch=512")
    with pytest.raises(ConfigError, match="need 64 CPUs and the cluster has 4"):
        ray_train.fit(config, None, lambda _: None, lambda _: None)
