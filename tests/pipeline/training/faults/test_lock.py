"""Two commands never work on one run."""

import errno
import json
import os
import subprocess
import sys
import threading
import time

import pytest

from pipeline.errors import ConfigError
from pipeline.files import holders
from pipeline.training.faults import lock


def test_a_second_command_is_refused_while_the_first_lives(tmp_path, monkeypatch):
    monkeypatch.setattr(holders, "BEAT_SECONDS", 0.05)
    with lock.hold(tmp_path, print):
        path = tmp_path / lock.FILE
        os.utime(path, (0, 0))
        time.sleep(0.5)
        assert time.time() - path.stat().st_mtime < 60  # the heart beats
        with (
            pytest.raises(ConfigError, match=f"process {os.getpid()} on "),
            lock.hold(tmp_path, print),
        ):
            pass
        assert path.exists()
    assert not path.exists()


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path):
    code = (
        "import os, sys, pathlib; from pipeline.training.faults import lock\n"
        "with lock.hold(pathlib.Path(sys.argv[1]), print): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    assert (tmp_path / lock.FILE).exists()
    with lock.hold(tmp_path, print):
        holder = json.loads((tmp_path / lock.FILE).read_text())
        assert holder["pid"] == os.getpid()


def test_a_folder_that_only_the_lock_needed_is_removed(tmp_path):
    with lock.hold(tmp_path / "runs" / "empty", print):
        pass
    with lock.hold(tmp_path / "kept" / "run", print):
        (tmp_path / "kept" / "run" / "file").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_process_that_has_the_number_of_a_dead_one_is_not_taken_for_it(tmp_path):
    path = tmp_path / lock.FILE
    holder = holders.identity() | {"pid": os.getppid(), "started": "1"}
    path.write_text(json.dumps(holder))
    with lock.hold(tmp_path, print):
        pass


def test_a_process_of_another_container_on_this_host_counts_as_one_of_another_host(
    tmp_path, monkeypatch
):
    """Containers with the host's network have its name, and their processes other numbers."""
    monkeypatch.setattr(holders, "STALE_SECONDS", 0.5)
    path, said = tmp_path / lock.FILE, []
    path.write_text(json.dumps(holders.identity() | {"namespace": 1, "pid": 2**30}))
    assert lock.is_held(tmp_path)
    with lock.hold(tmp_path, said.append):
        assert "waiting" in said[0]


def test_a_file_system_without_hard_links_has_locks_too(tmp_path, monkeypatch):
    def link(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    with lock.hold(tmp_path, print):
        assert json.loads((tmp_path / lock.FILE).read_text()) == holders.identity()
        assert not lock._linked(tmp_path / lock.FILE, tmp_path / lock.FILE)
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_another_host_is_watched_for_its_heartbeat(tmp_path, monkeypatch):
    monkeypatch.setattr(holders, "BEAT_SECONDS", 0.05)
    path, said = tmp_path / lock.FILE, []
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": "1"}))
    beats = threading.Timer(0.3, lambda: os.utime(path))
    beats.start()
    with (
        pytest.raises(ConfigError, match="process 1 on elsewhere"),
        lock.hold(tmp_path, said.append),
    ):
        pass
    assert said == ["waiting up to 60 s for a heartbeat of elsewhere"]
    monkeypatch.setattr(holders, "STALE_SECONDS", 0.5)
    with lock.hold(tmp_path, said.append):
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_a_command_whose_run_was_taken_over_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(holders, "BEAT_SECONDS", 0.05)
    ended = []
    monkeypatch.setattr(lock, "_end", ended.append)
    with lock.hold(tmp_path, print):
        (tmp_path / lock.FILE).write_text(json.dumps({"host": "elsewhere", "pid": 1}))
        time.sleep(0.3)
    assert f"another command has taken {tmp_path} over" in ended[0]
    assert (tmp_path / lock.FILE).exists()  # it is the other's


def test_clocks_of_hosts_may_differ(tmp_path, monkeypatch):
    """The age of a heartbeat is measured by the clock of the disk."""
    monkeypatch.setattr(holders, "BEAT_SECONDS", 0.05)
    path, now = tmp_path / lock.FILE, time.time
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": "1"}))
    monkeypatch.setattr(time, "time", lambda: now() + 3600)
    threading.Timer(0.3, lambda: os.utime(path)).start()
    with pytest.raises(ConfigError, match="process 1 on elsewhere"), lock.hold(tmp_path, print):
        pass


def test_a_lock_that_cannot_be_read_is_held_until_it_is_stale(tmp_path, monkeypatch):
    monkeypatch.setattr(holders, "STALE_SECONDS", 0.5)
    path = tmp_path / lock.FILE
    path.touch()
    assert lock.is_held(tmp_path)
    with lock.hold(tmp_path, print):
        pass
    assert list(tmp_path.iterdir()) == []


def test_of_many_commands_at_once_one_gets_the_lock(tmp_path):
    (tmp_path / lock.FILE).write_text(json.dumps(holders.identity() | {"pid": 0}))
    code = (
        "import sys, time, pathlib; from pipeline.training.faults import lock\n"
        "with lock.hold(pathlib.Path(sys.argv[1]), print): time.sleep(3)"
    )
    arguments = [sys.executable, "-c", code, tmp_path]
    started = [subprocess.Popen(arguments, stderr=subprocess.DEVNULL) for _ in range(6)]
    assert sorted(process.wait() for process in started) == [0, 1, 1, 1, 1, 1]
