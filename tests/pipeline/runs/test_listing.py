"""Runs are listed with their state and what happened to them."""

import os
from pathlib import Path

import pytest

from jobs import runs
from jobs.command import main
from pipeline.errors import Interrupted
from pipeline.paths import RunPaths
from pipeline.runs.listing import list_runs
from pipeline.training.faults import events, lock, stop
from tests.small_run import fit, settings


def test_states_of_runs(tmp_path, monkeypatch, capsys):
    fit(settings(tmp_path, "whole", "train.steps=6"))
    asked = iter([False] * 3 + [True])
    monkeypatch.setattr(stop, "requested", lambda run: next(asked))
    config = settings(tmp_path, "cut")
    with pytest.raises(Interrupted):
        fit(config)
    (tmp_path / "no run").mkdir()
    cut, whole = list_runs(tmp_path)
    assert (whole.name, whole.state, whole.step, whole.steps) == ("whole", "finished", 6, 6)
    assert whole.checkpoint == "checkpoint_000006"
    assert whole.last_event.endswith("training on 1 worker(s), from step 0")
    assert (cut.name, cut.state, cut.steps) == ("cut", "interrupted", 12)
    assert cut.checkpoint == "checkpoint_000004"
    assert cut.last_event.endswith("stopped after step 4 of 12, with a checkpoint")
    with lock.hold(RunPaths.of(config).run, print):
        assert list_runs(tmp_path)[0].state == "running"

    assert main(runs.VERB, [f"run.storage={tmp_path}"]) == 0
    shown = capsys.readouterr().out
    assert "interrupted" in shown
    assert "finished" in shown
    assert main(runs.VERB, [f"run.storage={tmp_path / 'nowhere'}"]) == 2


def test_runs_of_an_ablation_are_listed(tmp_path):
    """Their storage was said to hold no run."""
    for name in ("own", "ablation/base-1"):
        events.record(tmp_path / name, "stop", "stopped")
    assert {run.name for run in list_runs(tmp_path)} == {"own", "ablation/base-1"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_runs_that_this_user_may_not_read_are_left_out(tmp_path, monkeypatch):
    """One of them ended the listing of all."""
    for name, mode in (("own", 0o755), ("private", 0o700)):
        events.record(tmp_path / name, "stop", "stopped")
        (tmp_path / name).chmod(mode)
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    os.seteuid(65534)
    try:
        assert [run.name for run in list_runs(Path())] == ["own"]
    finally:
        os.seteuid(0)
