"""Whether loss curves depend on the number of workers: `python -m tests.benchmarks.curves`.

Trains the sample run's network (fp32, one thread for each worker) on 1, 2 and 4 workers without
dropout and compares the losses of every step. Then it ends a run on 2 workers right after a
checkpoint, continues from it on 1 and on 4 workers, and compares these with the undisturbed run on
2. At last it does the same on 2 workers with dropout, which must be equal bit for bit, final
weights too.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipeline.paths import RunPaths
from pipeline.settings.config import Config
from pipeline.settings.reading.config_file import load_config
from pipeline.training.checkpoints import files as checkpoints
from tests import small_run
from tests.pipeline.training import spawn, worlds

TARGET = 1e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="jobs/configs/demo.yaml")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--interrupt", type=int, default=37, help="step of the checkpoint")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--storage", help="folder to keep; its corpus is not prepared again")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="a setting and its value")
    arguments = parser.parse_intermixed_args()
    spawn.SECONDS = 3600  # a whole run is one answer
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(arguments, Path(arguments.storage or scratch).absolute())
        bench.prepare()
        rows = bench.compare()
    table = Table("run", "compared with", "largest difference of the loss", "steps")
    for row in rows:
        met = "" if row["difference"] <= row["target"] else f"  (target {row['target']:g})"
        table.add_row(
            row["run"], row["reference"], f"{row['difference']:.1e}{met}", str(row["steps"])
        )
    Console().print(table)
    if arguments.output:
        arguments.output.write_text(json.dumps(rows, indent=1))


class Bench:
    """Runs of one configuration in one folder."""

    def __init__(self, arguments: argparse.Namespace, storage: Path) -> None:
        self._arguments, self._storage = arguments, storage

    def prepare(self) -> None:
        """The corpus, in a process of its own: it starts Ray."""
        command = [sys.executable, "-m", "jobs.prepare", "--config", self._arguments.config]
        own = [f"run.storage={self._storage}", "run.name=corpus", *self._arguments.overrides]
        subprocess.run(command + own, check=True)

    def compare(self) -> list[dict]:
        rows = []
        first, *others = self._arguments.workers
        plain = {workers: self._run(f"workers-{workers}", workers) for workers in (first, *others)}
        for workers in others:
            rows.append(_row(f"{workers} worker(s)", plain[workers], f"{first}", plain[first]))
        at = self._arguments.interrupt
        whole = plain.get(2) or self._run("workers-2", 2)
        start = self._run("interrupted", 2, interrupted=True)
        for workers in (1, 4):
            resumed = self._resume(start, f"resumed-{workers}", workers)
            name = f"2 workers, from step {at} on {workers}"
            rows.append(_row(name, resumed, "2, undisturbed", whole))
        whole = self._run("dropout", 2, dropout=0.1)
        start = self._run("dropout-interrupted", 2, dropout=0.1, interrupted=True)
        resumed = self._resume(start, "dropout-resumed", 2, dropout=0.1)
        name = f"2 workers with dropout, from step {at} on 2"
        rows.append(_row(name, resumed, "2, undisturbed", whole, target=0.0))
        ends = [_weights(config) for config in (whole, resumed)]
        if ends[0] != ends[1]:
            raise SystemExit(f"{name}: the final weights differ")
        return rows

    def _config(self, name: str, workers: int, dropout: float = 0.0) -> Config:
        arguments, corpus = self._arguments, self._storage / "corpus"
        config = load_config(arguments.config, arguments.overrides)
        micro_batch = min(config.train.micro_batch, config.train.global_batch // workers)
        return load_config(
            arguments.config,
            [
                *arguments.overrides,
                f"run.storage={self._storage}",
                f"run.name={name}",
                f"train.shards=[{corpus / 'shards'}]",
                f"train.steps={arguments.steps}",
                f"train.checkpoint_every={arguments.interrupt}",
                f"train.micro_batch={micro_batch}",
                "train.log_every=1",
                "train.precision=fp32",
                f"model.hidden_dropout_prob={dropout}",
                f"model.attention_probs_dropout_prob={dropout}",
            ],
        )

    def _run(
        self, name: str, workers: int, dropout: float = 0.0, interrupted: bool = False
    ) -> Config:
        config = self._config(name, workers, dropout)
        shutil.rmtree(RunPaths.of(config).run, ignore_errors=True)
        return self._go(config, workers, interrupted)

    def _resume(self, start: Config, name: str, workers: int, dropout: float = 0.0) -> Config:
        config = self._config(name, workers, dropout)
        folder = RunPaths.of(config).run
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(RunPaths.of(start).run, folder)
        return self._go(config, workers)

    def _go(self, config: Config, workers: int, interrupted: bool = False) -> Config:
        begun = time.monotonic()
        worlds.fit(config, workers, interrupted)
        print(f"{config.run.name}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
        return config


def _row(
    name: str, config: Config, reference: str, other: Config, target: float = TARGET
) -> dict[str, object]:
    curve = small_run.losses(config)
    difference = worlds.distance(curve, small_run.losses(other))
    return {
        "run": name,
        "reference": reference,
        "difference": difference,
        "target": target,
        "steps": len(curve),
        "last_loss": curve[max(curve)],
    }


def _weights(config: Config) -> dict[str, str]:
    newest = checkpoints.newest(RunPaths.of(config).checkpoints)
    assert newest is not None  # the run has ended
    return small_run.weights(config, checkpoints.step_of(newest))


if __name__ == "__main__":
    main()
