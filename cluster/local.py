"""A Ray cluster of several nodes on this machine, to try what a real one does.

python cluster/local.py start --nodes 3    (make cluster NODES=3)
python cluster/local.py stop               (make cluster-stop)

Each node is a `ray start` of its own, with its own CPUs, ports and temporary folder; all ask for
the token that the start makes. `stop` ends these processes and no others.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

FOLDER = Path(tempfile.gettempdir(), f"nezha-cluster-{os.getuid()}")
"""Short, because Ray puts sockets into it, and their paths may have 107 bytes."""
TOKEN, NODES = "auth_token", "nodes.json"
START_SECONDS, STOP_SECONDS = 180, 30
OBJECT_STORE_BYTES = 256 << 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=("start", "stop"))
    parser.add_argument("--nodes", type=int, default=3, help="number of nodes, the head included")
    parser.add_argument("--cpus", type=int, help="CPUs of each node; default: those of the machine")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where its files are")
    chosen = parser.parse_args()
    if chosen.action == "stop":
        return stop(chosen.folder)
    if chosen.nodes < 1:
        parser.error("--nodes must be at least 1")
    cpus = chosen.cpus or max(1, len(os.sched_getaffinity(0)) // chosen.nodes)
    return start(chosen.folder, chosen.nodes, cpus)


def start(folder: Path, nodes: int, cpus: int) -> int:
    """Start a cluster and say how to use it; returns the exit status."""
    if any(running(pid, folder) for pid in pids(folder)):
        print(f"a cluster runs in {folder}; `make cluster-stop` ends it", file=sys.stderr)
        return 2
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    with open(folder / TOKEN, "x", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        file.write(secrets.token_hex(32))
    port, dashboard, client = free_ports(3)
    head = [
        *("--head", f"--port={port}", "--include-dashboard=true", "--dashboard-host=127.0.0.1"),
        *(f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"),
    ]
    started: list[int] = []
    address = f"http://127.0.0.1:{dashboard}"
    for number in range(nodes):
        role = head if number == 0 else [f"--address=127.0.0.1:{port}"]
        started.append(start_node(folder, number, cpus, role))
        # Written at once, so that `stop` finds the nodes of a start that was interrupted.
        (folder / NODES).write_text(json.dumps(started), "utf-8")
        if not wait_for_nodes(folder, address, number + 1):
            log = folder / f"node{number}.log"
            print(f"node {number} did not start; its log ends with:", file=sys.stderr)
            print(log.read_text("utf-8")[-2000:], file=sys.stderr)
            stop(folder)
            return 1
    variables = {
        "RAY_API_SERVER_ADDRESS": address,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / TOKEN),
    }
    print(f"{nodes} node(s) of {cpus} CPU(s) run in {folder}; dashboard: {address}")
    print("To use them, set\n")
    print("  export " + " ".join(f"{name}={value}" for name, value in variables.items()))
    print("\nThen, for example")
    print("  python -m jobs.submit pretrain --config jobs/configs/demo.yaml run.storage=/tmp/runs")
    print("\nThe dashboard asks for the token, which is in the file. `make cluster-stop` ends all.")
    return 0


def start_node(folder: Path, number: int, cpus: int, role: list[str]) -> int:
    """Start a node; returns the process id of its `ray start`."""
    listen, grpc, runtime, metrics = free_ports(4)
    temporary = folder / f"n{number}"
    command = [
        *(str(Path(sys.executable).with_name("ray")), "start", "--block", *role),
        *(f"--num-cpus={cpus}", f"--object-store-memory={OBJECT_STORE_BYTES}"),
        *(f"--temp-dir={temporary}", "--disable-usage-stats"),
        *(f"--dashboard-agent-listen-port={listen}", f"--dashboard-agent-grpc-port={grpc}"),
        *(f"--runtime-env-agent-port={runtime}", f"--metrics-export-port={metrics}"),
    ]
    environment = os.environ | {
        # Jobs find `python` and `ray` of this environment.
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / TOKEN),
        "RAY_TMPDIR": str(temporary),
    }
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_API_SERVER_ADDRESS"):
        environment.pop(name, None)
    with open(folder / f"node{number}.log", "wb") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    return process.pid


def wait_for_nodes(folder: Path, address: str, wanted: int) -> bool:
    """Wait until the dashboard counts so many nodes; whether it did before the limit."""
    deadline = time.monotonic() + START_SECONDS
    request = urllib.request.Request(f"{address}/nodes?view=summary")
    request.add_header("Authorization", f"Bearer {(folder / TOKEN).read_text('utf-8')}")
    while time.monotonic() < deadline and all(running(pid, folder) for pid in pids(folder)):
        with contextlib.suppress(OSError, ValueError, KeyError):
            with urllib.request.urlopen(request, timeout=5) as answer:
                found = json.load(answer)["data"]["summary"]
            if sum(node["raylet"].get("state") == "ALIVE" for node in found) >= wanted:
                return True
        time.sleep(1)
    return False


def stop(folder: Path) -> int:
    """End the nodes of a folder, workers first, and remove the folder; returns the exit status."""
    found = [pid for pid in reversed(pids(folder)) if running(pid, folder)]
    for pid in found:
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while any(running(pid, folder) for pid in found) and time.monotonic() < deadline:
        time.sleep(0.2)
    # What `ray start` left, as it does when it was killed.
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and running(int(process.name), folder):
            with contextlib.suppress(OSError):
                os.kill(int(process.name), signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)
    print(f"{len(found)} node(s) ended" if found else f"no cluster runs in {folder}")
    return 0


def pids(folder: Path) -> list[int]:
    """Process ids that the last start noted."""
    try:
        return json.loads((folder / NODES).read_text("utf-8"))
    except (FileNotFoundError, ValueError):  # the start was killed while it wrote them
        return []


def running(pid: int, folder: Path) -> bool:
    """Whether a process of this cluster has this id: others may have got the number since."""
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(each.startswith(f"RAY_TMPDIR={folder}/".encode()) for each in variables)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


if __name__ == "__main__":
    sys.exit(main())
