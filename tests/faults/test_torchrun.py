"""torchrun starts killed workers again; the run goes on and says so, as under Ray."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.paths import RunPaths
from pipeline.settings.reading.config_file import dump_yaml
from pipeline.training.faults import events, workers
from tests.faults.test_driver import LONG, ROOT, wait_for_step
from tests.small_run import losses, settings, weights

pytestmark = pytest.mark.kills


def command(config):
    file = RunPaths.of(config).run / "given.yaml"
    file.write_text(dump_yaml(config), "utf-8")
    torchrun = [Path(sys.executable).parent / "torchrun", "--nproc-per-node=2", "--standalone"]
    return subprocess.Popen(
        [*torchrun, "--max-restarts=2", "-m", "jobs.torchrun", "--config", file],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_worker_changes_nothing_and_is_told(tmp_path, rank):
    whole, killed = (settings(tmp_path, name, *LONG) for name in ("whole", "killed"))
    first = command(whole)
    output, _ = first.communicate()
    assert first.returncode == 0, output
    process = command(killed)
    wait_for_step(killed, 14, process)
    os.kill(workers.read_workers(RunPaths.of(killed).run)[rank].pid, signal.SIGKILL)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert losses(killed) == losses(whole)
    assert weights(killed, 60) == weights(whole, 60)
    told = [e["text"] for e in events.read(RunPaths.of(killed).run) if e["kind"] == "restart"]
    (line,) = told
    assert re.fullmatch(
        r"a worker died or failed; restart 1 of 2 by torchrun, from checkpoint_0000\d0", line
    )
    assert line in output
