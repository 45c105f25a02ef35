"""Random kills over one run: `python -m tests.faults.soak [--kills 30]`.

The run has two workers on a cluster of three nodes of this machine. A worker, the node of a worker
or the command itself is killed again and again, at random times and while checkpoints are written.
A new node joins in place of a killed one, and the command is given again until the run is finished.
Its losses and weights are compared with those of a run that nobody disturbed, what it consumed is
audited, and its goodput is printed with the lost time by cause.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipeline.files import journal
from pipeline.paths import RunPaths
from pipeline.runs.audit import audit
from pipeline.training.checkpoints import files
from pipeline.training.faults import events, workers
from pipeline.training.measure import step_log
from pipeline.training.measure.lost_time import goodput, seconds_by_cause
from tests.faults.test_driver import ROOT, assert_gone, children, command
from tests.small_run import losses, settings, weights

EVERY = 10
"""Steps between checkpoints."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    steps = EVERY * (2 * given.kills + 2)
    choose = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as folder, Cluster() as cluster:
        sizes = f"train.steps={steps}", f"train.checkpoint_every={EVERY}", "train.eval_every=100000"
        common = (*sizes, "scaling.workers=2", "train.micro_batch=4", "train.log_every=1")
        whole, killed = (settings(Path(folder), name, *common) for name in ("whole", "killed"))
        undisturbed = seconds_of(lambda: finish(cluster, whole))
        lost = seconds_of(lambda: kill_and_finish(cluster, killed, given.kills, choose))
        same = losses(whole) == losses(killed) and weights(whole, steps) == weights(killed, steps)
        run = RunPaths.of(killed).run
        happened = events.read(run)
        restarts = [event for event in happened if event["kind"] == "restart"]
        print(f"{given.kills} kills, of which {len(restarts)} did not end the command")
        print(f"losses and weights bit-identical to the undisturbed run: {same}")
        found = audit(killed)
        print("\n".join(found.problems or found.epochs))
        print(f"{undisturbed:.0f} s undisturbed, {lost:.0f} s with the kills")
        seconds = seconds_by_cause(journal.read(run / step_log.FILE), step_log.attempts(happened))
        print(f"goodput: {goodput(seconds):.1%} of {sum(seconds.values()):.0f} s; the rest:")
        for cause, value in sorted(seconds.items(), key=lambda item: -item[1]):
            print(f"  {cause}: {value:.1f} s")
    return 0 if same and not found.problems else 1


class Cluster:
    """Three nodes with a CPU each, one of which is the head; two are enough for the run."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="soak"))

    def __enter__(self) -> "Cluster":
        self._local("start", "--nodes", "3", "--cpus", "1")
        return self

    def __exit__(self, *_: object) -> None:
        self._local("stop")

    def command(self, config):
        """`jobs.pretrain` on this cluster."""
        address = json.loads((self.folder / "nodes.json").read_text("utf-8"))["address"]
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.folder / "auth_token")}
        return command(config, **token, RAY_ADDRESS=address)

    def kill_node_of(self, pid: int) -> str:
        """Kill the node that a worker runs on and let another join; the head is spared."""
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        (folder,) = (each for each in variables if each.startswith(b"RAY_TMPDIR="))
        number = folder.decode().rpartition("/n")[2]
        if number == "0":
            os.kill(pid, signal.SIGKILL)
            return "worker on the head"
        self._local("kill", "--node", number)
        self._local("add", "--cpus", "1")
        return f"node {number}"

    def _local(self, action: str, *words: str) -> None:
        line = [sys.executable, "cluster/local.py", action, "--folder", self.folder, *words]
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)


def finish(cluster: Cluster, config) -> None:
    process = cluster.command(config)
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(output)


def kill_and_finish(cluster: Cluster, config, kills: int, choose: random.Random) -> None:
    process, step, running = cluster.command(config), 0, {}
    for number in range(kills):
        # Each kill comes after a checkpoint of new workers: the budget of failures is never spent.
        wait_for_checkpoint(config, process, step + 1, running)
        if choose.random() < 0.5:
            time.sleep(choose.uniform(0, 2))
        else:
            wait_for_writing(config, process)
        step = files.step_of(files.newest(RunPaths.of(config).checkpoints))
        kind = choose.choice(["worker", "node", "command"])
        running = workers.read_workers(RunPaths.of(config).run)
        worker = choose.choice(list(running.values()))
        if kind == "worker":
            os.kill(worker.pid, signal.SIGKILL)
        elif kind == "node":
            kind = cluster.kill_node_of(worker.pid)
        else:
            started = children(process.pid)
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert_gone([*started, worker.pid])
            process = cluster.command(config)
        print(f"kill {number + 1}: {kind}, after checkpoint {step}", flush=True)
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(output)


def wait_for_checkpoint(config, process, step: int, gone: dict[int, workers.Worker]) -> None:
    """Until there is a checkpoint of this step or a later one, and other workers than these."""
    paths = RunPaths.of(config)
    while (
        (newest := files.newest(paths.checkpoints)) is None
        or files.step_of(newest) < step
        or workers.read_workers(paths.run) == gone
    ):
        if process.poll() is not None:
            raise SystemExit(process.communicate()[0])
        time.sleep(0.05)


def wait_for_writing(config, process) -> None:
    """Until the next checkpoint is being written, or the run has ended."""
    folder = RunPaths.of(config).checkpoints
    while process.poll() is None and not any(folder.glob(".checkpoint_*.tmp")):
        time.sleep(0.001)


def seconds_of(action) -> float:
    start_time = time.monotonic()
    action()
    return time.monotonic() - start_time


if __name__ == "__main__":
    sys.exit(main())
