"""What a run's records say while it trains."""

import subprocess
import sys
import time
from pathlib import Path

from pipeline.files import journal
from pipeline.paths import RunPaths
from pipeline.settings.reading.config_file import dump_yaml
from pipeline.training.faults import events
from pipeline.training.launch import torchrun, watcher
from tests.reported import Lines
from tests.small_run import settings

ROOT = Path(__file__).parents[4]


def test_progress_is_shown_again_when_the_storage_comes_back(tmp_path, monkeypatch):
    config, said = settings(tmp_path, "away"), Lines()
    run, new = RunPaths.of(config).run, journal.Follower.new
    monkeypatch.setattr(watcher, "POLL_SECONDS", 0.01)
    failing = iter([OSError(5, "Input/output error")] * 2)

    def fail_twice(*given):
        if error := next(failing, None):
            raise error
        return new(*given)

    watching = watcher.Watcher(run, config, said)
    monkeypatch.setattr(journal.Follower, "new", fail_twice)
    with watching.running():
        events.record(run, "restart", "worker 1 died")
        deadline = time.monotonic() + 10
        while not said and time.monotonic() < deadline:
            time.sleep(0.01)
        assert said == ["worker 1 died"]


def test_a_training_without_ray_shows_its_steps(tmp_path):
    """Nothing was shown but the last scores."""
    said = Lines()
    torchrun.fit(settings(tmp_path, "shown", "train.steps=6"), said)
    said.remove("training on 1 worker(s), from step 0")
    steps = [line.partition(" · ")[0] for line in said]
    assert steps == ["step 2/6", "step 4/6", "step 6/6", "step 6/6"]
    assert "held-out MLM" in said[-1]


def test_its_command_says_so_too(tmp_path):
    config = settings(tmp_path, "verb", "train.steps=2")
    file = tmp_path / "given.yaml"
    file.write_text(dump_yaml(config), "utf-8")
    command = [sys.executable, "-m", "jobs.torchrun", "--config", file]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "training on 1 worker(s), from step 0" in found.stdout
    assert "step 2/2 · loss" in found.stdout
