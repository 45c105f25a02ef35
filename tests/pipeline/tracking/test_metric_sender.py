import time

import mlflow
from mlflow.exceptions import MlflowException

from pipeline.tracking import metric_sender, store
from pipeline.tracking import runs as tracking
from pipeline.tracking.metric_sender import MetricSender
from pipeline.tracking.store import tracking_uri
from tests.pipeline.tracking.points import points


def test_steps_that_a_resumed_run_repeats_are_there_once(config):
    run_id = tracking.start_run(config, "repeated", {})
    for steps in (range(1, 8), range(4, 12)):
        sender = MetricSender(tracking_uri(config), run_id, system_metrics=False)
        for step in steps:
            sender.log(step, {"loss": float(step)})
        sender.close()
    assert points(config, run_id, "train/loss") == [(step, float(step)) for step in range(1, 12)]


def test_records_that_a_run_lacks_are_sent_without_reading_what_it_has(config, monkeypatch):
    """Of a long run that took longer than a training between two failures, and gigabytes."""
    monkeypatch.setattr(metric_sender, "BATCH", 10)
    records = [{"step": step, "loss": float(step), "lr": 0.5} for step in range(1, 31)]
    run_id, uri = tracking.start_run(config, "filled", {}), tracking_uri(config)
    for record in records[:14]:  # and nothing of `lr`, which comes later
        mlflow.MlflowClient(uri).log_metric(
            run_id, "train/loss", record["loss"], step=record["step"]
        )
    with monkeypatch.context() as patched:
        patched.delattr(mlflow.MlflowClient, "get_metric_history")
        sender = MetricSender(uri, run_id, system_metrics=False, earlier=iter(records))
        sender.log(30, {"loss": 30.0})  # as it is also in the record
        sender.log(31, {"loss": 31.0})
        assert sender.close(whole=True) == 0
    steps = list(range(1, 32))
    found = sorted(points(config, run_id, "train/loss"))
    assert found == [(step, float(step)) for step in steps]
    assert sorted(step for step, _ in points(config, run_id, "train/lr")) == steps[:-1]


def test_an_outage_stops_nothing_and_is_counted_and_filled(config, caplog, monkeypatch):
    run_id = tracking.start_run(config, "fourth", {})
    monkeypatch.setattr(metric_sender, "CLOSE_SECONDS", 0.1)
    log_batch, down = mlflow.MlflowClient.log_batch, [True]

    def answer(self, *arguments, **named):
        if down[0]:
            raise MlflowException("connection refused")
        log_batch(self, *arguments, **named)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", answer)
    sender = MetricSender(tracking_uri(config), run_id, system_metrics=False)
    for step in range(1, 24):
        sender.log(step, {"loss": 1.0, "lr": 2.0})
        while "cannot be reached" not in caplog.text:
            time.sleep(0.01)
    assert sender.close() == 46
    assert "MLflow did not receive 46 metrics" in caplog.text
    assert caplog.text.count("cannot be reached") == 1

    down[0] = False
    monkeypatch.setattr(metric_sender, "CLOSE_SECONDS", 20)
    sender = MetricSender(tracking_uri(config), run_id, system_metrics=False)
    for step in range(1, 30):
        sender.log(step, {"loss": 1.0, "lr": 2.0})
    assert sender.close() == 0
    assert [step for step, _ in points(config, run_id, "train/loss")] == list(range(1, 30))


def test_a_database_that_cannot_be_written_is_told_in_a_line(config, caplog, monkeypatch):
    """MLflow's traceback, and SQL with all its data, were ninety lines."""
    monkeypatch.setattr(metric_sender, "CLOSE_SECONDS", 0.1)
    run_id, uri = tracking.start_run(config, "read", {}), tracking_uri(config)
    read_only = f"sqlite:///file:{store.database_file(uri)}?mode=ro&uri=true"
    sender = MetricSender(read_only, run_id, system_metrics=False)
    sender.log(1, {"loss": 1.0})
    while "cannot be reached" not in caplog.text:
        time.sleep(0.01)
    assert sender.close(kept_in="the lines above") == 1
    assert [record.getMessage() for record in caplog.records] == [
        "MLflow cannot be reached, the run continues: attempt to write a readonly database",
        "MLflow did not receive 1 metrics; the lines above have them",
    ]


def test_a_file_that_is_no_database_stops_no_metrics(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(metric_sender, "CLOSE_SECONDS", 0.1)
    (tmp_path / "text.db").write_text("no database " * 99, "utf-8")
    sender = MetricSender(f"sqlite:///{tmp_path}/text.db", "run", system_metrics=False)
    sender.log(1, {"loss": 1.0})
    while "cannot be reached" not in caplog.text:
        time.sleep(0.01)
    sender.close()
    assert "the run continues: file is not a database\n" in caplog.text
