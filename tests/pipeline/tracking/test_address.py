"""Where a person looks at a run, and stores that can't be used from here."""

from types import SimpleNamespace

import pytest
from sqlalchemy.engine import make_url

from jobs.output.pretraining import next_commands
from pipeline.errors import TrackingError
from pipeline.settings.reading.config_file import load_config
from pipeline.tracking import runs
from pipeline.tracking.store import tracking_uri
from pipeline.tracking.versions import promote


def config(uri, tmp_path):
    return load_config(None, [f"run.storage={tmp_path}", f"tracking.uri='{uri}'"])


def test_a_run_has_a_page_on_a_server_and_a_command_for_a_database(monkeypatch, tmp_path):
    info = SimpleNamespace(info=SimpleNamespace(experiment_id="7"))
    client = SimpleNamespace(get_run=lambda run_id: info)
    monkeypatch.setattr(runs.mlflow, "MlflowClient", lambda uri: client)
    page = "http://mlflow:5000/#/experiments/7/runs/abc"
    assert runs.address(config("http://mlflow:5000/", tmp_path), "abc") == page
    database = f"mlflow ui --backend-store-uri sqlite:///{tmp_path}/mlflow.db"
    assert runs.address(config("", tmp_path), "abc") == database
    shown = next_commands(config("http://mlflow:5000", tmp_path), "abc")
    assert shown[0] == page
    assert not any("mlflow ui" in line for line in shown)


@pytest.mark.parametrize("name", ["a?b", "a%20b", "a%b", "a#b c", "中"])
def test_the_database_lies_in_the_storage_folder_whatever_its_name(name, tmp_path):
    storage = tmp_path / name
    there = load_config(None, [f"run.storage='{storage}'"])
    assert make_url(tracking_uri(there)).database == f"{storage}/mlflow.db"


def test_a_relative_database_is_the_same_for_all_processes_and_memory_is_none(
    monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    found = tracking_uri(config("sqlite:///a/mlflow.db?timeout=9", tmp_path))
    assert found == f"sqlite:///{tmp_path}/a/mlflow.db?timeout=9"
    for uri in ("sqlite://", "sqlite:///:memory:"):
        with pytest.raises(TrackingError, match="name a file"):
            tracking_uri(config(uri, tmp_path))


def test_a_database_that_is_read_must_be_there(tmp_path):
    with pytest.raises(TrackingError, match=rf"no MLflow database {tmp_path}/mlflow\.db"):
        promote(config("", tmp_path), "nezha", "1")


@pytest.mark.parametrize("uri", ["postgresql+pg0000://u:secret@h/d", "mysql+aiomysql://h/d"])
def test_a_database_without_its_driver_is_refused_and_no_password_is_shown(uri, tmp_path):
    with pytest.raises(TrackingError, match="install the extra `server`") as caught:
        tracking_uri(config(uri, tmp_path))
    assert "secret" not in str(caught.value)
