"""A Ray cluster of several nodes on this machine, to try what a real one does.

python cluster/local.py start --nodes 3    (make cluster NODES=3)
python cluster/local.py add                one more node joins
python cluster/local.py kill --node 2      all processes of a node end, as if its machine was lost
python cluster/local.py stop               (make cluster-stop)

Each node is a `ray start` of its own, with its own CPUs, ports and temporary folder, which is
TMPDIR of its processes too; all ask for the token that the start makes. `kill` and `stop` end these
processes and no others.
"""

import argparse
import contextlib
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from shlex import quote
from typing import Any

FOLDER = Path(tempfile.gettempdir(), f"nezha-cluster-{os.getuid()}")
"""Short, because Ray puts sockets into it, and their paths may have 107 bytes."""
TOKEN, NODES = "auth_token", "nodes.json"
START_SECONDS, STOP_SECONDS = 180, 30
HIDE = 'while [ "$1" != -- ]; do mount -t tmpfs none "$1" || exit 1; shift; done; shift; exec "$@"'
OBJECT_STORE_BYTES = 256 << 20


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("start", "add", "kill", "stop"))
    parser.add_argument("--nodes", type=int, default=3, help="number of nodes, the head included")
    parser.add_argument("--cpus", type=int, help="CPUs of each node; default: those of the machine")
    parser.add_argument("--node", type=int, help="number of the node to kill; 0 is the head")
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, help="where its files are (%(default)s)"
    )
    parser.add_argument(
        "--hide", type=Path, nargs="*", default=[], help="folders that only the head sees (Linux)"
    )
    chosen = parser.parse_args()
    folder = chosen.folder.absolute()  # nodes have other working directories
    if chosen.action == "stop":
        return stop(folder)
    if chosen.action == "kill":
        if chosen.node is None:
            parser.error("kill needs --node")
        return kill(folder, chosen.node)
    if chosen.nodes < 1:
        parser.error("--nodes must be at least 1")
    cpus = chosen.cpus or max(1, len(os.sched_getaffinity(0)) // chosen.nodes)
    if chosen.action == "add":
        return add(folder, cpus)
    return start(folder, chosen.nodes, cpus, chosen.hide)


def start(folder: Path, nodes: int, cpus: int, hidden: list[Path]) -> int:
    """Start a cluster and say how to use it; returns the exit status."""
    if shlex.quote(sys.executable) != sys.executable:
        print(
            f"{sys.executable}: Ray starts no job with a Python whose path has a space or another "
            "sign of the shell in it; move this project to another folder, and run `make cluster`",
            file=sys.stderr,
        )
        return 2
    if any(running(pid, folder) for pid in pids(folder)):
        print(f"a cluster runs in {folder}; `{stopping(folder)}` ends it", file=sys.stderr)
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
    address = f"http://127.0.0.1:{dashboard}"
    noted = {"address": f"127.0.0.1:{port}", "dashboard": address, "pids": []}
    note(folder, noted | {"hidden": [str(path.absolute()) for path in hidden]})
    for role in (head, *[[f"--address=127.0.0.1:{port}"]] * (nodes - 1)):
        if not start_node(folder, cpus, role):
            stop(folder)
            return 1
    variables = {
        "RAY_API_SERVER_ADDRESS": address,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / TOKEN),
    }
    print(f"{nodes} node(s) of {cpus} CPU(s) run in {folder}; dashboard: {address}")
    print("To use them, set\n")
    print("  export " + " ".join(f"{name}={quote(value)}" for name, value in variables.items()))
    print("\nThen, for example")
    print("  python -m jobs.submit pretrain --config jobs/configs/demo.yaml run.storage=/tmp/runs")
    print("\nThe dashboard asks for the token, which is in the file.")
    print(f"`{stopping(folder)}` ends all.")
    return 0


def stopping(folder: Path) -> str:
    """The command that ends the cluster of a folder."""
    if folder == FOLDER:
        return "make cluster-stop"
    return f"python cluster/local.py stop --folder {quote(str(folder))}"


def add(folder: Path, cpus: int) -> int:
    """Let one more node join; returns the exit status."""
    if not processes(folder):
        print(f"no cluster runs in {folder}; `start` starts one", file=sys.stderr)
        return 2
    if not start_node(folder, cpus, [f"--address={notes(folder)['address']}"]):
        return 1
    print(f"node {len(pids(folder)) - 1} of {cpus} CPU(s) has joined")
    return 0


def kill(folder: Path, number: int) -> int:
    """End all processes of a node at once; returns the exit status."""
    found: set[int] = set()
    # A process needs a moment to end, and may have started another one meanwhile.
    end = time.monotonic() + STOP_SECONDS
    while (pids := processes(folder / f"n{number}")) and time.monotonic() < end:
        found.update(pids)
        for pid in pids:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    if not found:
        print(f"no node {number} runs in {folder}", file=sys.stderr)
        return 2
    print(f"node {number} was killed, with {len(found)} processes")
    return 0


def start_node(folder: Path, cpus: int, role: list[str]) -> bool:
    """Start a node, note it, and wait until the dashboard counts it; whether it did."""
    noted = notes(folder)
    number = len(noted["pids"])
    process = ray_start(folder, number, cpus, role, noted.get("hidden", []) if number else [])
    # Noted at once, so that `stop` finds the nodes of a start that was interrupted.
    noted["pids"].append(process.pid)
    note(folder, noted)
    wanted = sum(running(pid, folder) for pid in noted["pids"])
    if wait_for_nodes(folder, noted["dashboard"], wanted, process):
        return True
    print(f"node {number} did not start; its log ends with:", file=sys.stderr)
    print((folder / f"node{number}.log").read_text("utf-8")[-2000:], file=sys.stderr)
    return False


def ray_start(
    folder: Path, number: int, cpus: int, role: list[str], hidden: list[str]
) -> subprocess.Popen[bytes]:
    """Start `ray start` of a node in the background; it sees empty folders for hidden ones."""
    listen, grpc, runtime, metrics = free_ports(4)
    temporary = folder / f"n{number}"
    (temporary / "tmp").mkdir(parents=True, exist_ok=True)
    command = [
        *(str(Path(sys.executable).with_name("ray")), "start", "--block", *role),
        *(f"--num-cpus={cpus}", f"--object-store-memory={OBJECT_STORE_BYTES}"),
        *(f"--temp-dir={temporary}", "--disable-usage-stats"),
        *(f"--dashboard-agent-listen-port={listen}", f"--dashboard-agent-grpc-port={grpc}"),
        *(f"--runtime-env-agent-port={runtime}", f"--metrics-export-port={metrics}"),
    ]
    if hidden:
        user = [] if os.getuid() == 0 else ["--map-root-user"]
        command = ["unshare", "--mount", *user, "sh", "-c", HIDE, "sh", *hidden, "--", *command]
    environment = os.environ | {
        # Jobs find `python` and `ray` of this environment.
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / TOKEN),
        "RAY_TMPDIR": str(temporary),
        "TMPDIR": str(temporary / "tmp"),
    }
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_API_SERVER_ADDRESS"):
        environment.pop(name, None)
    with open(folder / f"node{number}.log", "wb") as log:
        return subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )


def wait_for_nodes(folder: Path, address: str, wanted: int, last: subprocess.Popen[bytes]) -> bool:
    """Wait until the dashboard counts so many nodes; whether it did while the last one ran."""
    deadline = time.monotonic() + START_SECONDS
    request = urllib.request.Request(f"{address}/nodes?view=summary")
    request.add_header("Authorization", f"Bearer {(folder / TOKEN).read_text('utf-8')}")
    while time.monotonic() < deadline and last.poll() is None:
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
    for pid in processes(folder):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)
    print(f"{len(found)} node(s) ended" if found else f"no cluster runs in {folder}")
    return 0


def note(folder: Path, noted: dict[str, Any]) -> None:
    (folder / NODES).write_text(json.dumps(noted), "utf-8")


def notes(folder: Path) -> dict[str, Any]:
    """The addresses and, by number of the node, the process ids that were noted."""
    try:
        return json.loads((folder / NODES).read_text("utf-8"))
    except (FileNotFoundError, ValueError):  # the start was killed while it wrote them
        return {"pids": []}


def pids(folder: Path) -> list[int]:
    """Process ids of the nodes' `ray start`."""
    return notes(folder)["pids"]


def processes(folder: Path) -> list[int]:
    """Processes of the nodes whose temporary folders are in a folder, or of the node with this."""
    numbers = (int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit())
    return [pid for pid in numbers if running(pid, folder)]


def running(pid: int, folder: Path) -> bool:
    """Whether a process of this cluster has this id: others may have got the number since."""
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    name = f"RAY_TMPDIR={folder}/".encode()
    return any((each + b"/").startswith(name) for each in variables)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


if __name__ == "__main__":
    sys.exit(main())
