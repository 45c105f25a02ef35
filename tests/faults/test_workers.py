"""Workers of a real local Ray cluster are killed and stopped while they train."""

import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.errors import NezhaError, TrainingError
from pipeline.paths import RunPaths
from pipeline.training.faults import events, workers
from pipeline.training.launch import ray_train
from tests.pipeline.cluster.own_disks import hide_the_disk
from tests.reported import Lines
from tests.small_run import losses, settings, weights

pytestmark = [pytest.mark.ray, pytest.mark.kills]
TWO = ("scaling.workers=2", "train.micro_batch=4", "train.steps=60", "train.checkpoint_every=10")


def wait_for_step(config, step):
    """Until the run has logged it; raises nothing if the run ends first."""
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline and max(losses(config), default=0) < step:
        time.sleep(0.02)


def worker_pid(config, rank):
    return workers.read_workers(RunPaths.of(config).run)[rank].pid


def fit_and_signal(config, rank, number, progress):
    """Train; the worker of a rank gets a signal after step 14."""
    with ThreadPoolExecutor(1) as executor:
        run = executor.submit(ray_train.fit, config, None, progress)
        wait_for_step(config, 14)
        os.kill(worker_pid(config, rank), number)
        run.result()


@pytest.fixture(scope="module")
def undisturbed(ray_cluster, tmp_path_factory):
    config = settings(tmp_path_factory.mktemp("runs"), "whole", *TWO)
    ray_train.fit(config, None, Lines())
    return config


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_worker_changes_nothing_and_is_told(ray_cluster, undisturbed, tmp_path, rank):
    config, shown = settings(tmp_path, "killed", *TWO), Lines()
    fit_and_signal(config, rank, signal.SIGKILL, shown)
    assert losses(config) == losses(undisturbed)
    assert weights(config, 60) == weights(undisturbed, 60)
    (line,) = [line for line in shown if "restart" in line]
    assert re.match(rf"worker {rank} on [\d.]+ \(pid \d+\) died \(", line), line
    assert re.search(r"; restart 1 of 3, from checkpoint_0000\d0$", line), line


@pytest.mark.parametrize("seen", [True, False])
def test_a_stopped_worker_is_found_and_replaced(
    ray_cluster, undisturbed, tmp_path, monkeypatch, seen
):
    """Also where the other worker writes its stacks on a disk that the command does not see."""
    if not seen:
        hide_the_disk(monkeypatch, tmp_path / "node")
    config, shown = settings(tmp_path, "stopped", *TWO, "faults.hang_seconds=5"), Lines()
    fit_and_signal(config, 1, signal.SIGSTOP, shown)
    assert losses(config) == losses(undisturbed)
    (line,) = [line for line in shown if "restart" in line]
    assert re.match(r"worker 1 on [\d.]+ \(pid \d+\) made no step for 5 s", line)
    (stacks,) = RunPaths.of(config).run.glob("stacks_*")
    assert "Thread" in (stacks / "rank_0.txt").read_text()


def test_the_run_ends_when_the_budget_is_spent_and_says_how_to_go_on(ray_cluster, tmp_path):
    config = settings(tmp_path, "spent", *TWO, "faults.max_failures=0")
    with pytest.raises(TrainingError, match=r"the same command goes on from checkpoint_0000"):
        fit_and_signal(config, 1, signal.SIGKILL, Lines())
    assert [event["kind"] for event in events.read(RunPaths.of(config).run)] == ["start", "stop"]


def test_a_users_mistake_in_a_worker_is_not_tried_again(ray_cluster, tmp_path):
    config, shown = settings(tmp_path, "broken", *TWO), Lines()
    Path(RunPaths.of(config).shards, "manifest.json").write_text("{}", "utf-8")
    with pytest.raises(NezhaError, match="damaged"):
        ray_train.fit(config, None, shown)
    assert not any("restart" in line for line in shown)
    assert sum("stopped:" in line for line in shown) == 1


def test_workers_without_the_runs_disk_train_the_same(
    ray_cluster, undisturbed, tmp_path, monkeypatch
):
    """As on nodes with disks of their own: one is killed, and a checkpoint is fetched."""
    hide_the_disk(monkeypatch, tmp_path / "node")
    config, shown = settings(tmp_path, "apart", *TWO), Lines()
    fit_and_signal(config, 0, signal.SIGKILL, shown)
    assert losses(config) == losses(undisturbed)
    assert weights(config, 60) == weights(undisturbed, 60)
    assert any("restart 1 of 3" in line for line in shown)
    copies = {path.name for path in (tmp_path / "node").rglob("*") if path.is_file()}
    assert "manifest.json" in copies
    assert not any(name.startswith("rank_0") and name.endswith("tensors") for name in copies)
