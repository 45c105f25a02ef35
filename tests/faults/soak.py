"""Random kills over one run: `python -m tests.faults.soak [--kills 30]`.

One of its workers, or the command itself, is killed again and again, at random times and while
checkpoints are written. The command is given again until the run is finished. Its losses and
weights are compared with those of a run that nobody disturbed, what it consumed is audited, and its
goodput is printed with the lost time by cause.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from pipeline import journal
from pipeline.paths import RunPaths
from pipeline.runs.audit import audit
from pipeline.training.checkpoints import files
from pipeline.training.faults import events, failures
from pipeline.training.measure import step_log
from pipeline.training.measure.ledger import goodput, ledger
from tests.faults.test_driver import assert_gone, children, command
from tests.pipeline.training.test_loop import losses, settings

EVERY = 10
"""Steps between checkpoints."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    steps = EVERY * (given.kills + 2)
    choose = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as folder:
        sizes = f"train.steps={steps}", f"train.checkpoint_every={EVERY}", "train.eval_every=100000"
        common = (*sizes, "scaling.workers=2", "train.micro_batch=4", "train.log_every=1")
        whole, killed = (settings(Path(folder), name, *common) for name in ("whole", "killed"))
        undisturbed = seconds_of(lambda: finish(whole))
        lost = seconds_of(lambda: kill_and_finish(killed, given.kills, choose))
        same = losses(whole) == losses(killed) and weights(whole, steps) == weights(killed, steps)
        run = RunPaths.of(killed).run
        happened = events.read(run)
        restarts = [event for event in happened if event["kind"] == "restart"]
        print(f"{given.kills} kills, of which {len(restarts)} ended workers alone")
        print(f"losses and weights bit-identical to the undisturbed run: {same}")
        found = audit(killed)
        print("\n".join(found.problems or found.epochs))
        print(f"{undisturbed:.0f} s undisturbed, {lost:.0f} s with the kills")
        seconds = ledger(journal.read(run / step_log.FILE), step_log.attempts(happened))
        print(f"goodput: {goodput(seconds):.1%} of {sum(seconds.values()):.0f} s; the rest:")
        for cause, value in sorted(seconds.items(), key=lambda item: -item[1]):
            print(f"  {cause}: {value:.1f} s")
    return 0 if same and not found.problems else 1


def finish(config) -> None:
    process = command(config)
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(output)


def kill_and_finish(config, kills: int, choose: random.Random) -> None:
    process = command(config)
    for number in range(kills):
        # Each kill comes after a new checkpoint, so that the budget of failures is never spent.
        wait_for_checkpoint(config, process, EVERY * (number + 1))
        if choose.random() < 0.5:
            time.sleep(choose.uniform(0, 2))
        else:
            wait_for_writing(config, process)
        kind = choose.choice(["worker", "worker", "command"])
        print(f"kill {number + 1}: {kind}, after step {max(losses(config), default=0)}", flush=True)
        if kind == "worker":
            os.kill(choose.choice(list(failures.workers(RunPaths.of(config).run).values())).pid, 9)
        else:
            started = children(process.pid)
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert_gone(started)
            process = command(config)
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(output)


def wait_for_checkpoint(config, process, step: int) -> None:
    while (newest := files.newest(RunPaths.of(config).checkpoints)) is None or (
        files.step_of(newest) < step
    ):
        if process.poll() is not None:
            raise SystemExit(process.communicate()[0])
        time.sleep(0.05)


def wait_for_writing(config, process) -> None:
    """Until the next checkpoint is being written, or the run has ended."""
    folder = RunPaths.of(config).checkpoints
    while process.poll() is None and not any(folder.glob(".checkpoint_*.tmp")):
        time.sleep(0.001)


def weights(config, steps: int) -> dict[str, str]:
    folder = RunPaths.of(config).checkpoints / f"checkpoint_{steps:06d}"
    return files.tensor_hashes(folder)


def seconds_of(action) -> float:
    start_time = time.monotonic()
    action()
    return time.monotonic() - start_time


if __name__ == "__main__":
    sys.exit(main())
