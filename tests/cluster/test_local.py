"""A cluster of several nodes on this machine, which asks for a token, and jobs on it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.pipeline.corpus import raw

ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).with_name("ray")
AUTH = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS", "RAY_TMPDIR")


def clean():
    return {name: value for name, value in os.environ.items() if name not in AUTH}


def local(folder, action, *words):
    command = [sys.executable, "cluster/local.py", action, "--folder", folder, *words]
    return subprocess.run(command, cwd=ROOT, env=clean(), capture_output=True, text=True)


@pytest.fixture(scope="module")
def cluster():
    """Folder of a running cluster, and the variables that its start prints."""
    folder = Path("/tmp", f"nzc{os.getpid()}")
    started = local(folder, "start", "--nodes", "2", "--cpus", "2")
    try:
        assert started.returncode == 0, started.stderr
        (line,) = re.findall(r"export (.*)", started.stdout)
        yield folder, dict(each.split("=", 1) for each in line.split())
    finally:
        local(folder, "stop")
        shutil.rmtree(folder, ignore_errors=True)


def run(command, variables, **given):
    return subprocess.run(
        [*map(str, command)],
        cwd=ROOT,
        env=clean() | variables | given,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """`jobs.prepare` of a small corpus."""
    folder = tmp_path_factory.mktemp("job")
    raw.write(folder / "a.jsonl", raw.jsonl(["北京是中国的首都。今天天气很好。" * 20] * 50))
    return [
        *(f"run.storage={folder}/runs", f"corpus.inputs=[{folder}/a.jsonl]", "run.name=small"),
        *("corpus.vocab_size=64", "corpus.sequence_length=32"),
    ]


@pytest.mark.long
@pytest.mark.ray
def test_jobs_run_on_it_with_the_token_and_are_refused_without(cluster, words):
    _, variables = cluster
    submit = [sys.executable, "-m", "jobs.submit", "prepare", "--follow", *words]
    done = run(submit, variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "small-prepare is submitted" in done.stdout
    assert "fingerprint" in done.stdout  # the job's own log
    assert "\x1b[" not in done.stdout
    again = run(submit, variables)
    assert "small-prepare-2 is submitted" in again.stdout, again.stderr

    plain = run([*submit, "--dry-run"], variables).stdout.strip()
    assert plain.startswith("RAY_API_SERVER_ADDRESS=http://127.0.0.1:")
    direct = [RAY, "job", "submit", "--working-dir", ".", "--", "python", "-m", "jobs.prepare"]
    done = run([*direct, *words], variables)
    assert done.returncode == 0, done.stdout + done.stderr

    refused = run(submit, variables, RAY_AUTH_TOKEN_PATH="/dev/null", RAY_AUTH_TOKEN="0" * 32)
    assert refused.returncode == 2
    assert "asks for a token" in refused.stderr


@pytest.mark.ray
@pytest.mark.slow
def test_a_command_with_a_wrong_token_is_told_of_it(cluster, words):
    folder, variables = cluster
    address = json.loads((folder / "nodes.json").read_text())["address"]
    wrong = {"RAY_AUTH_TOKEN_PATH": "/dev/null", "RAY_AUTH_TOKEN": "0" * 32}
    command = [sys.executable, "-m", "jobs.prepare", *words, "run.name=refused"]
    refused = run(command, variables, RAY_ADDRESS=address, **wrong)
    assert refused.returncode == 2
    assert f"error: RAY_ADDRESS={address}: this Ray cluster cannot be joined" in refused.stderr
    assert "RAY_AUTH_MODE=token" in refused.stderr


@pytest.mark.ray
@pytest.mark.slow
def test_a_node_is_lost_and_another_joins(cluster):
    folder, _ = cluster
    assert "node 2 of 1 CPU(s) has joined" in local(folder, "add", "--cpus", "1").stdout
    assert processes_of(folder / "n2")
    assert "node 2 was killed" in local(folder, "kill", "--node", "2").stdout
    assert not processes_of(folder / "n2")
    assert processes_of(folder / "n1")
    again = local(folder, "kill", "--node", "2")
    assert (again.returncode, again.stderr) == (2, f"no node 2 runs in {folder}\n")
    assert local(folder, "kill").returncode == 2
    assert local(Path(f"{folder}-none"), "add").returncode == 2


@pytest.mark.ray
@pytest.mark.slow
def test_stop_ends_these_nodes_and_nothing_else(cluster):
    folder, _ = cluster
    assert local(folder, "start").returncode == 2  # one at a time
    other = subprocess.Popen(["tail", "-f", folder / "node0.log"])
    noted = json.loads((folder / "nodes.json").read_text())["pids"]
    assert len(noted) == 3
    os.kill(noted[1], signal.SIGKILL)  # leaves its raylet
    time.sleep(1)
    assert "ended" in local(folder, "stop").stdout
    assert other.poll() is None
    other.kill()
    other.wait()
    assert not folder.exists()
    assert not processes_of(folder)


def processes_of(folder):
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            text = (process / "environ").read_bytes()
        except OSError:
            continue
        if f"RAY_TMPDIR={folder}".encode() in text:
            found.append((process / "cmdline").read_bytes())
    return found


def test_a_start_without_a_token_is_refused(tmp_path):
    """What `ray start` on a node does when nobody gave it a token."""
    environment = {"RAY_AUTH_MODE": "token", "HOME": str(tmp_path), "RAY_TMPDIR": str(tmp_path)}
    done = run([RAY, "start", "--head", "--port=0", "--include-dashboard=false"], environment)
    assert done.returncode != 0
    assert "token" in done.stdout + done.stderr
