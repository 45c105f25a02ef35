import json
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import ViewType
from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_TIMEOUT
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

from pipeline.errors import ConfigError, Interrupted, TrackingError
from pipeline.settings.reading.config_file import load_config, with_changes
from pipeline.tracking import runs as tracking
from pipeline.tracking import store
from pipeline.tracking.finetuning import record_finetuning
from pipeline.tracking.metric_sender import MetricSender
from pipeline.tracking.store import is_reachable, tracking_uri
from tests.full_disk import largest_file
from tests.pipeline.tracking.points import points

ROOT = Path(__file__).parents[3]


def test_a_run_has_the_settings_the_metrics_and_the_files(config, tmp_path):
    run_id = tracking.start_run(config, "first", {"stage": "pretrain"})
    sender = MetricSender(tracking_uri(config), run_id, system_metrics=False)
    sender.log(10, {"loss": 7.0})
    sender.log(20, {"loss": 6.5, "lr": 1e-3})
    sender.close()
    file = tmp_path / "note.txt"
    file.write_text("kept", "utf-8")
    tracking.finish_run(config, run_id, artifacts=(file,))

    client = mlflow.MlflowClient(tracking_uri(config))
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["optim.lr"] == str(config.optim.lr)
    assert points(config, run_id, "train/loss") == [(10, 7.0), (20, 6.5)]
    assert [item.path for item in client.list_artifacts(run_id)] == ["note.txt"]


def test_names_of_heads_and_labels_may_hold_what_mlflow_refuses(config):
    labels = ["C++", "好评！", "/", "a//b", "..", "n/a", "体育、娱乐"]
    heads = f"heads={json.dumps({'情感（酒店）': {'task': 'ner'}})}"
    named = load_config(None, [f"run.storage={config.run.storage}", heads])
    run_id = tracking.start_run(named, "labels", {})
    scores = {"loss": 1.0} | {f"f1_{label}": 0.5 for label in labels}
    record_finetuning(named, run_id, [scores], {})
    data = mlflow.MlflowClient(tracking_uri(config)).get_run(run_id).data
    assert data.params["heads.情感:ff08酒店:ff09.task"] == "ner"
    assert sum(name.startswith("dev/f1_") for name in data.metrics) == len(labels)


def test_commands_that_begin_at_once_share_a_new_store(tmp_path):
    """Both made the tables of the file; each failed, and left a file that no command could use."""
    code = (
        "import sys; from pipeline.settings.reading.config_file import load_config\n"
        "from pipeline.tracking import runs\n"
        "runs.start_run(load_config(None, sys.argv[1:]), 'r', {})"
    )
    command = [sys.executable, "-c", code, f"run.storage={tmp_path}"]
    begun = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) for _ in range(2)]
    for each in begun:
        _, errors = each.communicate()
        assert each.returncode == 0, errors
    client = mlflow.MlflowClient(tracking_uri(load_config(None, command[3:])))
    experiment = client.get_experiment_by_name("nezha").experiment_id
    assert len(client.search_runs([experiment])) == 2


@pytest.mark.parametrize(
    ("error", "status"),
    [(KeyboardInterrupt, "KILLED"), (Interrupted, "KILLED"), (ConfigError, "FAILED")],
)
def test_an_error_ends_the_run(config, tmp_path, error, status):
    run_id = tracking.start_run(config, "ended", {})
    file = tmp_path / "report.html"
    file.touch()

    def stop(run):
        with tracking.end_on_error(config, run, lambda: [file]):
            raise error

    for run in (None, run_id):
        with pytest.raises(error):
            stop(run)
    client = mlflow.MlflowClient(tracking_uri(config))
    assert client.get_run(run_id).info.status == status
    assert [item.path for item in client.list_artifacts(run_id)] == ["report.html"]


def test_a_run_goes_on_after_a_block_without_an_error(config):
    run_id = tracking.start_run(config, "going on", {})
    with tracking.end_on_error(config, run_id):
        pass
    client = mlflow.MlflowClient(tracking_uri(config))
    assert client.get_run(run_id).info.status == "RUNNING"


def test_a_resumed_run_appends_to_the_same_curve(config):
    run_id = tracking.start_run(config, "second", {})
    for step in (1, 2):
        assert tracking.start_run(config, "second", {}, resume=run_id) == run_id
        sender = MetricSender(tracking_uri(config), run_id, system_metrics=False)
        sender.log(step, {"loss": float(step)})
        sender.close()
    assert points(config, run_id, "train/loss") == [(1, 1.0), (2, 2.0)]


def test_a_run_that_was_deleted_is_replaced(config):
    gone = "0" * 32
    run_id = tracking.start_run(config, "third", {}, resume=gone)
    assert run_id != gone
    client = mlflow.MlflowClient(tracking_uri(config))
    experiment = client.get_experiment_by_name("tests").experiment_id
    assert run_id in {
        run.info.run_id for run in client.search_runs([experiment], run_view_type=ViewType.ALL)
    }


def test_a_server_with_accounts_that_lacks_a_run_gets_a_new_one(config, monkeypatch):
    """It answers 403 for a run that it does not have, and the training was refused."""
    get_run, gone = mlflow.MlflowClient.get_run, "0" * 32

    def answer(self, run_id):
        if run_id == gone:
            raise MlflowException("Permission denied", PERMISSION_DENIED)
        return get_run(self, run_id)

    monkeypatch.setattr(mlflow.MlflowClient, "get_run", answer)
    assert tracking.start_run(config, "moved", {}, resume=gone) != gone


def test_files_that_cannot_be_stored_are_told_and_may_take_longer(config, caplog, monkeypatch):
    """A store without credentials ended with a traceback, and the run went on for ever."""
    seconds = []

    def refuse(self, run_id, path):
        seconds.append(MLFLOW_HTTP_REQUEST_TIMEOUT.get())
        raise RuntimeError("no credentials")

    monkeypatch.setattr(mlflow.MlflowClient, "log_artifact", refuse)
    run_id = tracking.start_run(config, "files", {})
    tracking.finish_run(config, run_id, artifacts=[Path("a.png")])
    assert "could not keep its files: RuntimeError: no credentials" in caplog.text
    client = mlflow.MlflowClient(tracking_uri(config))
    assert client.get_run(run_id).info.status == "FINISHED"
    assert seconds == [MLFLOW_HTTP_REQUEST_TIMEOUT.default]
    assert store.BRIEF_SECONDS == MLFLOW_HTTP_REQUEST_TIMEOUT.get() < seconds[0]


def test_a_storage_that_was_moved_is_told(tmp_path, caplog):
    """MLflow wrote files of later runs into the old folder, which it made anew."""
    old, new = (load_config(None, [f"run.storage={tmp_path}/{name}"]) for name in ("old", "new"))
    run_id = tracking.start_run(old, "run", {})
    assert tracking.start_run(old, "run", {}, resume=run_id) == run_id
    variant = with_changes(old, {"run.storage": f"{tmp_path}/old/ablation"}, "")
    tracking.start_run(with_changes(variant, {"tracking.uri": tracking_uri(old)}, ""), "run", {})
    assert "was moved" not in caplog.text
    (tmp_path / "old").rename(tmp_path / "new")
    for resume in (run_id, None):
        caplog.clear()
        tracking.start_run(new, "run", {}, resume)
        assert f"in {tmp_path}/old/mlartifacts, where nothing is" in caplog.text
    (tmp_path / "new" / "mlartifacts").mkdir()
    (tmp_path / "old").symlink_to(tmp_path / "new")
    caplog.clear()
    tracking.start_run(new, "run", {}, run_id)
    assert not caplog.text


def test_a_store_of_the_environment_is_not_left_out_without_a_word(config, caplog, monkeypatch):
    monkeypatch.setattr(tracking, "CHOSEN_ELSEWHERE", "http://me:secret@mlflow:5000")
    tracking.start_run(config, "elsewhere", {})
    assert "MLFLOW_TRACKING_URI=http://me@mlflow:5000 has no effect" in caplog.text
    caplog.clear()
    named = with_changes(config, {"tracking.uri": tracking_uri(config)}, "")
    tracking.start_run(named, "elsewhere", {})
    assert not caplog.text


def test_a_copy_of_a_run_folder_does_not_write_into_the_run_of_the_first(config, caplog):
    first = tracking.start_run(config, "first", {})
    copy = with_changes(config, {"run.name": "copy"}, "")
    own = tracking.start_run(copy, "copy", {"changed": "lr"}, resume=first)
    assert own != first
    assert "of which copy is a copy" in caplog.text
    client = mlflow.MlflowClient(tracking_uri(config))
    assert "changed" not in client.get_run(first).data.tags
    assert tracking.start_run(copy, "copy", {}, resume=own) == own
    assert tracking.start_run(config, "first", {}, resume=first) == first


def test_a_training_that_begins_anew_with_other_settings_gets_a_run_of_its_own(config, caplog):
    """After checkpoints were deleted, MLflow showed the settings and the curve of before."""
    first = tracking.start_run(config, "anew", {})
    assert tracking.start_run(config, "anew", {}, resume=first, anew=True) == first
    slower = with_changes(config, {"optim.lr": 1e-5}, "")
    assert tracking.start_run(slower, "anew", {}, resume=first) == first
    second = tracking.start_run(slower, "anew", {}, resume=first, anew=True)
    assert second != first
    assert "was begun with another optim.lr" in caplog.text
    client = mlflow.MlflowClient(tracking_uri(config))
    assert client.get_run(second).data.params["optim.lr"] == "1e-05"
    assert client.get_run(first).info.status == "KILLED"


def test_a_run_goes_on_in_the_experiment_and_the_parent_that_are_asked_for(config, caplog):
    """Another `tracking.experiment` had no effect on a run that had begun."""
    first = tracking.start_run(config, "moves", {})
    client = mlflow.MlflowClient(tracking_uri(config))
    for key, value in (("tracking.experiment", "others"), ("tracking.parent", first)):
        other = with_changes(config, {key: value}, "")
        second = tracking.start_run(other, "moves", {}, resume=first)
        assert second != first
        assert f"has {key}=" in caplog.text
        assert tracking.start_run(other, "moves", {}, resume=second) == second
    ours = client.get_experiment_by_name("tests")
    client.rename_experiment(ours.experiment_id, "renamed")  # in MLflow's page, for example
    assert tracking.start_run(config, "moves", {}, resume=first) == first
    client.rename_experiment(ours.experiment_id, "tests")


def test_a_run_in_the_trash_is_replaced_and_registers_elsewhere(config):
    client = mlflow.MlflowClient(tracking_uri(config))
    gone = tracking.start_run(config, "trash", {})
    client.delete_run(gone)
    assert not tracking.is_active(client, gone)
    run_id = tracking.start_run(config, "trash", {}, resume=gone)
    assert run_id != gone
    assert client.get_run(run_id).info.status == "RUNNING"


def test_an_experiment_in_the_trash_is_named_with_the_command_that_restores_it(config):
    other = with_changes(config, {"tracking.experiment": "old"}, "")
    run_id = tracking.start_run(other, "a", {})
    client = mlflow.MlflowClient(tracking_uri(config))
    number = client.get_experiment_by_name("old").experiment_id
    client.delete_experiment(number)
    for resume in (None, run_id):
        with pytest.raises(TrackingError, match=f"restore --experiment-id {number}"):
            tracking.start_run(other, "a", {}, resume=resume)


def test_a_parent_that_does_not_exist_is_refused(config):
    nested = with_changes(config, {"tracking.parent": "nobody"}, "")
    with pytest.raises(TrackingError, match=r"tracking\.parent=nobody: there is no such run"):
        tracking.start_run(nested, "a", {})


def test_a_file_that_is_no_database_or_cannot_be_written_is_refused_at_once(config, tmp_path):
    (tmp_path / "text.db").write_text("no database " * 99, "utf-8")
    (tmp_path / "file").touch()
    for path in (tmp_path / "text.db", tmp_path / "file" / "mlflow.db", tmp_path):
        other = with_changes(config, {"tracking.uri": f"sqlite:///{path}"}, "")
        with pytest.raises(TrackingError, match=str(path)):
            tracking.start_run(other, "a", {})


def test_a_full_disk_is_told_in_a_line(config, caplog, capfd):
    """MLflow showed a hundred lines of tracebacks, and the line had the statement in it."""
    run_id = tracking.start_run(config, "full", {})
    client = mlflow.MlflowClient(tracking_uri(config))
    with largest_file(0), store.optional(run_id, "be ended"):
        client.set_terminated(run_id)
    (line,) = caplog.messages
    assert line.startswith(f"MLflow run {run_id} could not be ended: d")
    assert "\n" not in line
    assert "Traceback" not in capfd.readouterr().err


def test_a_server_that_is_down_is_told_from_one_that_refuses(monkeypatch):
    assert not is_reachable(load_config(None, ["tracking.uri=http://127.0.0.1:9"]))
    assert is_reachable(load_config(None, []))


def test_a_database_that_is_down_is_noticed_at_once():
    """MLflow tried for minutes, and the training was refused."""
    database = "tracking.uri=postgresql+psycopg2://me@127.0.0.1"
    assert not is_reachable(load_config(None, [f"{database}:9/mlflow"]))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert is_reachable(load_config(None, [f"{database}:{port}/mlflow"]))


def test_a_file_that_another_process_locks_does_not_answer(tmp_path, monkeypatch):
    """The training was refused."""
    monkeypatch.setattr(store, "REACH_SECONDS", 0.1)
    config = load_config(None, [f"run.storage={tmp_path}"])
    assert is_reachable(config)
    with closing(sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)) as other:
        assert is_reachable(config)
        other.execute("BEGIN EXCLUSIVE")
        assert not is_reachable(config)
        other.execute("COMMIT")
    (tmp_path / "mlflow.db").write_text("no database")
    assert is_reachable(config)  # MLflow tells what is wrong with it


def test_what_changed_since_is_a_tag(config):
    run_id = tracking.start_run(config, "leg", {})
    tracking.start_run(config, "leg", {"changed_at_step_7": "optim.lr: 1 → 2"}, run_id)
    client = mlflow.MlflowClient(tracking_uri(config))
    assert client.get_run(run_id).data.tags["changed_at_step_7"] == "optim.lr: 1 → 2"


@pytest.mark.parametrize("uri", ["file:///tmp/mlruns", "mlruns"])
def test_stores_that_mlflow_refuses_are_refused_early(uri):
    with pytest.raises(TrackingError, match=r"tracking\.uri"):
        tracking_uri(load_config(None, [f"tracking.uri={uri}"]))


def test_a_missing_server_is_noticed_at_once(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    config = load_config(None, ["tracking.uri=http://127.0.0.1:9"])
    with pytest.raises(TrackingError, match="start the server"):
        tracking.start_run(config, "fifth", {})


def test_a_fine_tuning_leaves_its_scores_and_its_trials(config, tmp_path):
    run_id = tracking.start_run(config, "head", {})
    results = tmp_path / "results.json"
    results.write_text("{}", "utf-8")
    epochs = [{"loss": 2.0, "f1": 0.1}, {"loss": 1.0, "f1": 0.3}]
    trials = [
        {"lr": 1e-3, "batch": 8, "seed": 1, "dev": {"f1": 0.3}, "test": {"f1_+": 0.2}, "error": ""},
        {"lr": 1.0, "batch": 8, "seed": 1, "dev": {}, "test": {}, "error": "the loss is nan"},
    ]
    scores = {"test": {"f1": 0.2, "f1_C++": 0.5, "f1_体育，文化": 0.25}}
    record_finetuning(config, run_id, epochs, scores, trials, [results])
    assert points(config, run_id, "train/loss") == [(1, 2.0), (2, 1.0)]
    assert points(config, run_id, "dev/f1") == [(1, 0.1), (2, 0.3)]
    assert points(config, run_id, "test/f1") == [(2, 0.2)]
    assert points(config, run_id, "test/f1_C:2b:2b") == [(2, 0.5)], "labels may have any character"
    assert points(config, run_id, "test/f1_体育:ff0c文化") == [(2, 0.25)]
    client = mlflow.MlflowClient(tracking_uri(config))
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert [item.path for item in client.list_artifacts(run_id)] == ["results.json"]
    nested = client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")
    by_status = {each.info.status: each for each in nested}
    assert by_status["FINISHED"].data.metrics == {"dev/f1": 0.3, "test/f1_:2b": 0.2}
    assert by_status["FAILED"].data.tags["error"] == "the loss is nan"


def test_files_of_a_run_at_a_url_lie_beside_the_database(tmp_path):
    """The first command ended with a traceback."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    config = load_config(None, ["run.storage=s3://bucket/runs", f"tracking.uri={uri}"])
    run = mlflow.MlflowClient(uri).get_run(tracking.start_run(config, "a", {}))
    assert run.info.artifact_uri.startswith(f"{tmp_path.as_uri()}/mlartifacts/")
    assert tracking._place_of_files(config, "postgresql://db/mlflow") == "s3://bucket/runs"
