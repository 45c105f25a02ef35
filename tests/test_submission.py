"""A cluster of its own with token authentication takes the main job by `ray job submit`."""

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from tests.test_readme import ROOT, SHORT

BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def head():
    """Address and environment of a running head node."""
    port = free_port()
    environment = os.environ | {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        "RAY_TMPDIR": tempfile.mkdtemp(prefix="nezha-"),
    }
    environment.pop("RAY_ADDRESS", None)
    start = [BIN / "ray", "start", "--head", "--num-cpus=3", "--include-dashboard=true"]
    # The tests' own cluster, in this machine too, has the default ports.
    ports = [f"--dashboard-port={port}", "--dashboard-host=127.0.0.1"]
    for name in ("port", "dashboard-agent-listen-port", "ray-client-server-port"):
        ports.append(f"--{name}={free_port()}")
    process = subprocess.Popen(
        [*start, *ports, "--block"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for line in process.stdout:
        if "Ray runtime started" in line:
            break
    yield f"http://127.0.0.1:{port}", environment
    process.terminate()
    process.wait(60)


class NotReady(Exception):
    """The node's agent, which takes jobs, starts a while after the node."""


@retry(retry=retry_if_exception_type(NotReady), stop=stop_after_delay(120), wait=wait_fixed(2))
def submit(address, environment, *words):
    command = [BIN / "ray", "job", "submit", "--address", address, "--working-dir", ".", "--"]
    done = subprocess.run(
        [*command, *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500
    )
    if "No available agent" in done.stderr:
        raise NotReady
    return done


@pytest.mark.long
@pytest.mark.ray
def test_a_submitted_job_does_what_the_local_command_does(head, tmp_path):
    address, environment = head
    words = ["python", "-m", "jobs.pretrain", "--config", "jobs/configs/demo.yaml"]
    done = submit(address, environment, *words, f"run.storage={tmp_path}", *SHORT)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    summary = json.loads((tmp_path / "demo/summary.json").read_text("utf-8"))
    assert Path(summary["export"]).is_relative_to(tmp_path)
    assert {"pretrained", "scratch"} == set(summary["ner_f1"])

    refused = submit(address, environment | {"RAY_AUTH_TOKEN": "0" * 32}, *words)
    assert refused.returncode != 0
    assert "uthentication" in refused.stdout + refused.stderr
