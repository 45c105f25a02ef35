"""What the training loop costs over a bare torch loop: `python -m tests.benchmarks.loop_cost`.

One Ray Train worker trains the sample run's network with everything that a run has: DeepSpeed, the
feed with dynamic masks, MLflow with a SQLite store, system metrics. After every ten steps, one of
them logged, the same process makes five steps of a bare loop: the same network, the same optimizer,
batches in memory. The figure is the median over these rounds of the ratio of a step's time, by the
clock and in CPU seconds of the process with all its threads. Evaluation and checkpoints are not
counted. What Ray's other processes use meanwhile is shown separately.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from rich.console import Console
from rich.table import Table

from jobs.output.progress import ConsoleProgress
from pipeline.feed.opening import open_feed
from pipeline.paths import RunPaths
from pipeline.precision import resolve_precision
from pipeline.settings.config import Config
from pipeline.settings.reading.config_file import load_config
from pipeline.settings.training import OptimSettings
from pipeline.tracking import runs as tracking
from pipeline.tracking.store import tracking_uri
from pipeline.training import engine, loop
from pipeline.training.lamb import optimizer as lamb
from pipeline.training.launch import ray_train, ray_worker
from pipeline.training.objective import PretrainingObjective, to_device
from pipeline.training.start.network import build_network, network_config

LOGGED, BARE = 10, 5
"""Steps of the loop and of the bare loop in a round."""


class Spent(NamedTuple):
    """Readings of the clock, of this process's CPU time, and of that of Ray's other processes."""

    wall: float
    cpu: float
    ray: float

    @classmethod
    def now(cls) -> "Spent":
        driver_process = psutil.Process().parent().parent()  # of the raylet
        others = [p for p in driver_process.children(recursive=True) if p.pid != os.getpid()]
        ray = sum(sum(_cpu_times(process)[:2]) for process in others)
        return cls(time.perf_counter(), time.process_time(), ray)

    def since(self, other: "Spent") -> "Spent":
        return Spent(*(now - then for now, then in zip(self, other, strict=True)))


def _cpu_times(process: psutil.Process) -> tuple[float, ...]:
    try:
        return process.cpu_times()
    except psutil.NoSuchProcess:
        return (0.0, 0.0)


class Race:
    """Interrupts the loop where it computes a step's learning rate, between two steps."""

    def __init__(self, bare_step: Callable[[], None]) -> None:
        self._bare_step = bare_step
        self._last: Spent | None = None
        self.rounds: list[tuple[Spent, Spent]] = []
        """What the loop's ten steps took, and the bare loop's five."""

    def learning_rate(self, step: int, total_steps: int, settings: OptimSettings) -> float:
        # Half-way between two logged steps, MLflow's thread has sent everything.
        if step % LOGGED == LOGGED // 2:
            begun = Spent.now()
            for _ in range(BARE):
                self._bare_step()
            ended = Spent.now()
            if self._last:
                self.rounds.append((begun.since(self._last), ended.since(begun)))
            self._last = ended
        return _learning_rate(step, total_steps, settings)


_learning_rate = loop.learning_rate
train_as_usual = ray_worker.run


def worker(given: dict[str, Any]) -> dict[str, Any]:
    """Replaces the launcher's own function, and calls it."""
    config = Config.model_validate(given["config"])
    torch.set_num_threads(max(1, int(config.scaling.cpus_per_worker)))
    race = Race(bare_loop(config))
    loop.learning_rate = race.learning_rate
    state = train_as_usual(given)
    # The first round warms both up.
    (RunPaths.of(config).run / "rounds.json").write_text(json.dumps(race.rounds[1:]))
    return state


def bare_loop(config: Config) -> Callable[[], None]:
    """Steps on the run's first batches, repeated."""
    feed = open_feed(config, rank=0, world_size=1)
    cpu = torch.device("cpu")
    steps = [[to_device(batch, cpu) for batch in feed.step(step)] for step in range(8)]
    network = build_network(
        network_config(config.model, feed.vocab_size), config.run.seed, config.engine.attention
    )
    half = engine.HALF.get(resolve_precision(config.train.precision, cpu))
    objective = PretrainingObjective(network)
    masters = list(network.parameters())
    if half:
        masters = [torch.nn.Parameter(parameter.detach().clone()) for parameter in masters]
        objective.to(half)
    of = dict(zip(network.parameters(), masters, strict=True))
    groups = lamb.parameter_groups(network, config.optim.weight_decay)
    for group in groups:
        group["params"] = [of[parameter] for parameter in group["params"]]
    optimizer = lamb.Lamb(groups, lr=config.optim.lr)
    turn = iter(np.tile(np.arange(len(steps)), 10**6))

    def step() -> None:
        micro_batches = steps[next(turn)]
        masked = sum(len(inputs.masked_labels) for inputs in micro_batches)
        pairs = sum(len(inputs.next_sentence_label) for inputs in micro_batches)
        objective.zero_grad()
        for inputs in micro_batches:
            objective(inputs, masked, pairs)[0].backward()
        if half:
            for own, master in of.items():
                master.grad = None if own.grad is None else own.grad.float()
        torch.nn.utils.clip_grad_norm_(masters, config.optim.clip)
        optimizer.step()
        if half:
            with torch.no_grad():
                torch._foreach_copy_(list(of), masters)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="jobs/configs/demo.yaml")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--storage", help="folder to keep; its corpus is not prepared again")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="a setting and its value")
    arguments = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as scratch:
        rounds = measure(arguments, Path(arguments.storage or scratch).absolute())
    figures = summarize(rounds)
    table = Table("what", "figure", title=" ".join(arguments.overrides))
    for name, value in figures.items():
        table.add_row(name, f"{value:.3f}")
    Console().print(table)
    if arguments.output:
        arguments.output.write_text(json.dumps(figures, indent=1))


def measure(arguments: argparse.Namespace, storage: Path) -> list[tuple[Spent, Spent]]:
    own = [f"run.storage={storage}", "run.name=corpus", *arguments.overrides]
    command = [sys.executable, "-m", "jobs.prepare", "--config", arguments.config, *own]
    subprocess.run(command, check=True, stdout=sys.stderr)
    steps = LOGGED * (arguments.rounds + 2)
    config = load_config(
        arguments.config,
        [
            "train.precision=fp32",
            *arguments.overrides,
            f"run.storage={storage}",
            f"run.name=cost-{time.time():.0f}",
            f"train.shards=[{storage / 'corpus' / 'shards'}]",
            f"train.steps={steps}",
            f"train.checkpoint_every={steps}",
            f"train.log_every={LOGGED}",
            "scaling.workers=1",
        ],
    )
    run_id = tracking.start_run(config, config.run.name, {})
    from tests.benchmarks import loop_cost  # by its name: Ray would copy what `__main__` defines

    ray_worker.run = loop_cost.worker
    ray_train.fit(config, (tracking_uri(config), run_id), ConsoleProgress(Console()))
    read = json.loads((RunPaths.of(config).run / "rounds.json").read_text())
    return [(Spent(*whole), Spent(*bare)) for whole, bare in read]


def summarize(rounds: list[tuple[Spent, Spent]]) -> dict[str, float]:
    median = statistics.median

    def ratio(kind: str) -> float:
        return median(
            getattr(whole, kind) / LOGGED / (getattr(bare, kind) / BARE) for whole, bare in rounds
        )

    both = [Spent(*map(sum, zip(*pair, strict=True))) for pair in rounds]
    return {
        "bare step, seconds": median(bare.wall for _, bare in rounds) / BARE,
        "bare step, CPU seconds": median(bare.cpu for _, bare in rounds) / BARE,
        "loop over bare loop, by the clock": ratio("wall"),
        "loop over bare loop, CPU seconds": ratio("cpu"),
        "Ray's other processes, CPUs": median(spent.ray / spent.wall for spent in both),
    }


if __name__ == "__main__":
    main()
