"""Scores of checkpoints beside the training that writes them, here and on a cluster."""

import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from jobs import evaluate
from jobs.output.console import plain_console
from pipeline.errors import ConfigError
from pipeline.paths import RunPaths
from pipeline.settings.reading.config_file import dump_yaml, with_changes
from pipeline.stages import scoring
from pipeline.tracking import runs as tracking
from pipeline.tracking.store import tracking_uri
from pipeline.training.checkpoints import files
from pipeline.training.measure import history
from tests.reported import Lines
from tests.small_run import fit, settings

ROOT = Path(__file__).parents[3]


def heldout(config):
    """The held-out loss that training itself has computed, by step."""
    records = history.read(RunPaths.of(config).run)
    return {
        each["step"]: each["heldout_mlm_loss"] for each in records if "heldout_mlm_loss" in each
    }


def test_each_checkpoint_of_a_training_is_scored_while_it_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(scoring, "POLL_SECONDS", 0.1)
    config = settings(tmp_path, "followed", "train.checkpoint_every=3", "evaluate.follow=true")
    paths = RunPaths.of(config)
    run_id = tracking.start_run(config, "followed", {})
    tracking.note_run(paths.run, run_id)
    file = tmp_path / "given.yaml"
    file.write_text(dump_yaml(config), "utf-8")
    train = subprocess.Popen([sys.executable, "-m", "jobs.torchrun", "--config", file], cwd=ROOT)
    # The run knows its last step; the command need not be given its settings.
    evaluate.execute(with_changes(config, {"train.steps": 1000}, ""), plain_console())
    assert train.wait() == 0
    client = mlflow.MlflowClient(tracking_uri(config))
    shown = client.get_metric_history(run_id, "evaluated/mlm_loss")
    assert {point.step: point.value for point in shown} == pytest.approx(heldout(config))
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert [line for line in lines if "waiting for checkpoints" in line]
    assert [line.partition(" · ")[0] for line in lines if "held-out MLM" in line] == [
        f"step {step}/12" for step in heldout(config)
    ]


def test_a_followed_run_is_no_other_start(tmp_path):
    config = settings(tmp_path, "both", "evaluate.follow=true", f"train.init_from={tmp_path}")
    with pytest.raises(ConfigError, match=r"leave train\.init_from out"):
        evaluate.plan(config)


@pytest.mark.ray
def test_a_cluster_gives_the_same_scores(ray_cluster, tmp_path, monkeypatch):
    config = settings(tmp_path, "scored")
    fit(config)
    path = files.newest(RunPaths.of(config).checkpoints)
    here = scoring.score(config, path)
    assert here["mlm_loss"] == pytest.approx(heldout(config)[12])
    pids = Lines()
    monkeypatch.setattr(scoring, "_score_there", _with_pid)
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster.address)
    there = scoring.score_where_free(config, path, pids)
    assert there == here
    assert len(pids) == 1
    assert not pids[0].endswith(f": {os.getpid()}")


def _with_pid(config, path, say, disk):
    say(str(os.getpid()))
    return scoring.score(config, path, disk)
