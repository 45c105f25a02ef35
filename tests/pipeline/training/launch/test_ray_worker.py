"""What a worker is given on a node that does not see the run's folder."""

from pipeline.cluster import remote_disk
from pipeline.paths import RunPaths
from pipeline.tracking.store import tracking_uri
from pipeline.training.launch.ray_worker import with_copies
from tests.small_run import settings


def test_the_store_of_mlflow_stays_that_of_the_command(ray_cluster, tmp_path, monkeypatch):
    """A registered `train.init_from` was looked up in a database beside the copies."""
    monkeypatch.setattr(remote_disk, "may_have_other_nodes", lambda: True)
    config = settings(tmp_path, "apart")
    with remote_disk.offered(RunPaths.of(config).run, str(tmp_path / "scratch")) as offer:
        own = with_copies(config, remote_disk.RemoteDisk(offer))
    assert own.run.storage != config.run.storage
    assert tracking_uri(own) == tracking_uri(config)
