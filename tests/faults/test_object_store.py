"""A node is lost whose run is kept in an object store, a real server on this machine."""

import os
import signal
import subprocess
import sys
import time

import pytest

from pipeline.paths import RunPaths
from pipeline.runs import run_in_store
from pipeline.settings.reading.config_file import load_config
from pipeline.training.checkpoints import files
from tests import small_run
from tests.pipeline.object_store import bucket, object_store  # noqa: F401
from tests.pipeline.runs.test_run_in_store import stored

pytestmark = pytest.mark.kills
TRAIN = """
import sys, time
from pipeline.runs import run_in_store
from pipeline.settings.reading.config_file import load_config
from pipeline.training import loop
from tests import small_run

def slowly(*given, of=loop.learning_rate):
    time.sleep(0.5)
    return of(*given)

loop.learning_rate, run_in_store.PUSH_SECONDS = slowly, 0.2
config = load_config(None, sys.argv[1:])
with run_in_store.hold(config, print):
    small_run.fit(config)
"""


def test_a_run_goes_on_where_another_node_was_lost(tmp_path, bucket):  # noqa: F811
    """On a real server: the weights are those of an undisturbed run on a disk."""
    whole = small_run.settings(tmp_path, "whole", "train.checkpoint_every=2")
    small_run.fit(whole)
    run = (f"run.storage={bucket}/runs", "run.name=a")
    shared = [*run, *small_run.SHORT, "train.checkpoint_every=2"]
    first, second = (
        load_config(None, [*shared, f"run.scratch={tmp_path / name}"]) for name in ("one", "two")
    )
    with run_in_store.hold(first, print):
        small_run.write_data(first)
    command = [sys.executable, "-c", TRAIN, *shared, f"run.scratch={tmp_path / 'one'}"]
    process = subprocess.Popen(command)
    url = f"{bucket}/runs/a"
    while not any(name.endswith("COMPLETE") for name in stored(url)):
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with run_in_store.hold(second, print):
        paths = RunPaths.of(second)
        found = files.newest(paths.checkpoints)
        assert found
        assert 2 <= files.step_of(found) < 12
        files.verify(found)
        small_run.fit(second)
    assert small_run.losses(second) == small_run.losses(whole)
    assert small_run.weights(second, 12) == small_run.weights(whole, 12)
    kept = {name.split("/")[1] for name in stored(url) if name.startswith("checkpoints/")}
    assert kept == {path.name for path in paths.checkpoints.iterdir()}
    assert "lock.json" not in stored(url)
