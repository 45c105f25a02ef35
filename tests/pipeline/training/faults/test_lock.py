"""Two commands never work on one run."""

import json
import os
import subprocess
import sys
import time

import pytest

from pipeline.errors import ConfigError
from pipeline.training.faults import lock


def test_a_second_command_is_refused_while_the_first_lives(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)
    with lock.hold(tmp_path):
        path = tmp_path / lock.FILE
        os.utime(path, (0, 0))
        time.sleep(0.5)
        assert time.time() - path.stat().st_mtime < 60  # the heart beats
        with (
            pytest.raises(ConfigError, match=f"process {os.getpid()} on "),
            lock.hold(tmp_path),
        ):
            pass
        assert path.exists()
    assert not path.exists()


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path):
    code = (
        "import os, sys, pathlib; from pipeline.training.faults import lock\n"
        "with lock.hold(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    assert (tmp_path / lock.FILE).exists()
    with lock.hold(tmp_path):
        holder = json.loads((tmp_path / lock.FILE).read_text())
        assert holder["pid"] == os.getpid()


def test_the_lock_of_another_host_lasts_as_long_as_its_heartbeat(tmp_path):
    path = tmp_path / lock.FILE
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    with pytest.raises(ConfigError, match="process 1 on elsewhere"), lock.hold(tmp_path):
        pass
    old = time.time() - lock.STALE_SECONDS - 1
    os.utime(path, (old, old))
    with lock.hold(tmp_path):
        pass


def test_a_lock_that_a_crash_left_empty_is_taken_over_when_stale(tmp_path):
    path = tmp_path / lock.FILE
    path.touch()
    os.utime(path, (0, 0))
    with lock.hold(tmp_path):
        pass
