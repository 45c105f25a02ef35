"""The command is killed or asked to stop; the same one goes on in the same MLflow run."""

import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import mlflow
import psutil
import pytest

from pipeline.paths import RunPaths
from pipeline.settings.reading.config_file import dump_yaml
from pipeline.tracking.store import tracking_uri
from pipeline.training.checkpoints import files
from pipeline.training.faults import events, lock, stop
from tests.small_run import losses, settings, weights

pytestmark = pytest.mark.kills
ROOT = Path(__file__).parent.parent.parent
LONG = ("scaling.workers=2", "train.micro_batch=4", "train.steps=60", "train.checkpoint_every=10")


def command(config, **variables):
    """`jobs.pretrain` on a local cluster of its own, or the one that the variables give."""
    file = RunPaths.of(config).run / "given.yaml"
    file.write_text(dump_yaml(config), "utf-8")
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.pretrain", "--config", file],
        cwd=ROOT,
        env=environment | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for_step(config, step, process):
    while max(losses(config), default=0) < step:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


def children(pid):
    """Processes that a process started, with theirs."""
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def assert_gone(pids):
    deadline = time.monotonic() + 180
    while left := [pid for pid in pids if alive(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.5)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    config = settings(tmp_path_factory.mktemp("runs"), "whole", *LONG)
    process = command(config)
    assert process.wait() == 0, process.communicate()[0]
    return config


def go_on_and_compare(config, undisturbed):
    """The same command again ends as the undisturbed run did, in the same MLflow run."""
    first = mlflow_run(config)
    process = command(config)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert losses(config) == losses(undisturbed)
    assert weights(config, 60) == weights(undisturbed, 60)
    client = mlflow.MlflowClient(tracking_uri(config))
    (run,) = client.search_runs(["1"])
    assert {first, mlflow_run(config)} == {run.info.run_id}
    assert run.info.status == "FINISHED"
    steps = Counter(
        point.step for point in client.get_metric_history(run.info.run_id, "train/loss")
    )
    assert steps == Counter(losses(config).keys())  # each once
    assert not (RunPaths.of(config).run / lock.FILE).exists()


def mlflow_run(config):
    return files.read_state(files.newest(RunPaths.of(config).checkpoints))["mlflow_run"]


def test_a_killed_command_is_taken_up_by_the_same_command(undisturbed, tmp_path):
    config = settings(tmp_path, "killed", *LONG)
    process = command(config)
    wait_for_step(config, 14, process)
    started = children(process.pid)
    process.kill()
    assert_gone(started)
    go_on_and_compare(config, undisturbed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_command_that_is_asked_to_stop_writes_a_checkpoint(undisturbed, tmp_path, number):
    config = settings(tmp_path, "asked", *LONG)
    process = command(config)
    wait_for_step(config, 14, process)
    started = children(process.pid)
    os.killpg(process.pid, number)  # as a terminal, systemd and Slurm do
    output, _ = process.communicate()
    assert process.returncode == 75, output
    assert f"{number.name}: stopping after this step, with a checkpoint" in output
    assert "of 60, with a checkpoint; the same command goes on" in output
    assert "Traceback" not in output
    assert not stop.requested(RunPaths.of(config).run)
    assert_gone(started)
    go_on_and_compare(config, undisturbed)


def test_a_terminal_that_closes_is_a_request_to_stop(tmp_path):
    """The steps since the last checkpoint were lost, and MLflow went on to show the run running."""
    config = settings(tmp_path, "closed", *LONG, "train.steps=4000", "train.checkpoint_every=4000")
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(ROOT)
        os.environ.pop("RAY_ADDRESS", None)
        command = [sys.executable, "-m", "jobs.pretrain", "--config", f"{tmp_path}/closed.yaml"]
        (tmp_path / "closed.yaml").write_text(dump_yaml(config), "utf-8")
        os.execv(sys.executable, command)
    reader = threading.Thread(target=drain, args=(terminal,), daemon=True)
    reader.start()
    while max(losses(config), default=0) < 4:
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
        time.sleep(0.05)
    started = children(pid)
    os.kill(pid, signal.SIGHUP)  # of the shell
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 75
    assert files.newest(RunPaths.of(config).checkpoints)
    assert events.read(RunPaths.of(config).run)[-1]["kind"] == "interrupted"
    assert_gone(started)


def drain(terminal):
    with suppress(OSError):
        while os.read(terminal, 1 << 16):
            pass


def test_a_second_command_on_the_same_run_is_refused(tmp_path):
    config = settings(tmp_path, "two", *LONG, "train.steps=4000")  # more than the second lasts
    first = command(config)
    wait_for_step(config, 2, first)
    second = command(config)
    output, _ = second.communicate()
    assert second.returncode == 2
    assert f"another command works on this run: process {first.pid}" in output
    first.send_signal(signal.SIGTERM)
    assert first.wait() == 75
