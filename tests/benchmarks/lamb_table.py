"""How far a sharded run is from an un-sharded one: `python -m tests.benchmarks.lamb_table`.

For every ZeRO stage, number of workers, precision, accumulation and clipping, the largest
difference of a weight, relative to the largest weight, after the given numbers of steps:

- `loop`: from a plain loop with whole parameters in one process, in the same precision;
- `float64`: from a float64 LAMB with the same recorded gradients. A loss that is linear in the
  weights replays the gradients, so that small differences cannot change later gradients.

`lamb` is ours; `ordinary` is the same arithmetic on DeepSpeed's flat tensors, each taken as one
parameter; `adamw` shows what stage and precision alone do.
"""

import argparse
import functools
import itertools
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from pipeline.settings.config import Config
from pipeline.training import batch_split
from pipeline.training import engine as engines
from pipeline.training.lamb import optimizer as lamb
from tests.pipeline.training import networks, spawn
from tests.pipeline.training.lamb.reference_lamb import ReferenceLamb

SAMPLES = 16
"""Samples of a global batch: what 4 workers with 4 accumulation steps need."""
LR, DECAY, CLIP = networks.LR, 0.01, 0.3
plain_loop = functools.cache(networks.plain_loop)


class Case(NamedTuple):
    optimizer: str
    precision: str
    stage: int
    workers: int
    accumulation: int
    clip: float


class Replay(nn.Module):
    """The network's parameters, with a loss whose gradient is what it is called with."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        for name, parameter in network.named_parameters():
            self.register_parameter(name.replace(".", "|"), parameter)

    def forward(self, gradients: list[Tensor]) -> Tensor:
        pairs = zip(self.parameters(), gradients, strict=True)
        return torch.stack([(p.float() * g.float()).sum() for p, g in pairs]).sum()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, nargs="+", default=[20, 200])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--optimizers", nargs="+", default=["lamb", "ordinary", "adamw"])
    parser.add_argument("--stages", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    console = Console(width=130)
    spawn.SECONDS = 7200  # all runs of a number of workers are one answer
    rows = []
    recorded = record_gradients(max(arguments.steps))
    for workers in arguments.workers:
        cases = [
            Case(*key, workers, *rest)
            for key in itertools.product(arguments.optimizers, ("fp32", "bf16"), arguments.stages)
            for rest in itertools.product((1, 4), (0.0, CLIP))
        ]
        runs = spawn.run(workers, run_all, cases, arguments.steps, recorded)[0]
        for case, (trained, replayed) in zip(cases, runs, strict=True):
            rows.append({**case._asdict(), **compare(case, trained, replayed, recorded)})
            console.print_json(json.dumps(rows[-1]), indent=None)
    if arguments.output:
        arguments.output.write_text(json.dumps(rows, indent=1))
    console.print(summarize(rows, arguments.steps))


def run_all(cases: list[Case], steps: list[int], recorded: list[list[list[Tensor]]]) -> list[Any]:
    return [(train(case, steps), replay(case, steps, recorded)) for case in cases]


def make(case: Case, module: nn.Module) -> Any:
    micro = SAMPLES // (case.workers * case.accumulation)
    split = batch_split.Split(micro, case.workers, case.accumulation)
    name = "adamw" if case.optimizer == "adamw" else "lamb"
    optim = {"name": name, "lr": LR, "clip": case.clip, "weight_decay": DECAY}
    config = Config.model_validate({"engine": {"zero_stage": case.stage}, "optim": optim})
    worker = engines.initialize(module, config, split, case.precision)
    if case.optimizer == "ordinary":
        engines.optimizer_of(worker)._slices.clear()  # take each flat tensor as one parameter
    return worker


def train(case: Case, steps: list[int]) -> dict[int, Any]:
    """Weights after each of the numbers of steps."""
    worker = make(case, networks.build())
    weights, done = {}, 0
    for step in steps:
        networks.train(worker, range(done, step), SAMPLES)
        weights[step], done = networks.full_state_dict(worker), step
    return weights


def replay(case: Case, steps: list[int], recorded: list[list[list[Tensor]]]) -> dict[int, Any]:
    worker = make(case, Replay(networks.build()))
    rank, weights = torch.distributed.get_rank(), {}
    for step, samples in enumerate(recorded[: max(steps)], 1):
        for number, gradients in enumerate(micro_batches(samples, case)):
            if number % case.workers == rank:
                worker.backward(worker(gradients))
                worker.step()
        if step in steps:
            found = networks.full_state_dict(worker) or {}
            weights[step] = {name.replace("|", "."): weight for name, weight in found.items()}
    return weights


def record_gradients(steps: int) -> list[list[list[Tensor]]]:
    """Gradients of each parameter for each sample of each step of a plain fp32 run."""
    network = networks.build()
    optimizer = lamb.Lamb(lamb.parameter_groups(network, DECAY), lr=LR)
    recorded = []
    for step in range(steps):
        inputs, labels = networks.global_batch(step, SAMPLES)
        samples = []
        for x, y in zip(inputs.split(1), labels.split(1), strict=True):
            gradients = torch.autograd.grad(network(x, y), list(network.parameters()))
            samples.append(list(gradients))
        for parameter, *gradients in zip(network.parameters(), *samples, strict=True):
            parameter.grad = torch.stack(gradients).mean(0)
        optimizer.step()
        recorded.append(samples)
    return recorded


def micro_batches(samples: list[list[Tensor]], case: Case) -> list[list[Tensor]]:
    """Mean gradients of each micro-batch, as the network's precision holds them."""
    size = SAMPLES // (case.workers * case.accumulation)
    dtype = engines.HALF.get(case.precision, torch.float32)
    return [
        [torch.stack(parts).mean(0).to(dtype) for parts in zip(*samples[i : i + size], strict=True)]
        for i in range(0, SAMPLES, size)
    ]


def compare(case: Case, trained: Any, replayed: Any, recorded: Any) -> dict[str, float]:
    count, adapt = case.workers * case.accumulation, case.optimizer != "adamw"
    loop = plain_loop(case.precision, case.clip, count, 1.0, DECAY, adapt, tuple(trained))
    exact = float64(case, list(replayed), recorded)
    return {
        **{f"loop_{step}": difference(trained[step], loop[step]) for step in trained},
        **{f"float64_{step}": difference(replayed[step], exact[step]) for step in replayed},
    }


def difference(weights: dict[str, Tensor], reference: dict[str, Tensor]) -> float:
    pairs = [(weights[name].double(), reference[name].double()) for name in reference]
    largest = max(b.abs().max() for _, b in pairs)
    return float(max((a - b).abs().max() for a, b in pairs) / largest)


def float64(case: Case, steps: list[int], recorded: Any) -> dict[int, dict[str, Tensor]]:
    names = [name for name, _ in networks.build().named_parameters()]
    slow = ReferenceLamb(
        dict(networks.build().named_parameters()),
        weight_decay=DECAY,
        adapt=case.optimizer != "adamw",
    )
    result = {}
    for step, samples in enumerate(recorded[: max(steps)], 1):
        parts = zip(*micro_batches(samples, case), strict=True)
        gradients = [torch.stack(part).double().mean(0) for part in parts]
        slow.step(dict(zip(names, gradients, strict=True)), LR, case.clip)
        if step in steps:
            result[step] = dict(slow.weights)
    return result


def summarize(rows: list[dict[str, Any]], steps: list[int]) -> Table:
    """The largest difference over all accumulations and clippings."""
    columns = [f"{kind}_{step}" for kind in ("loop", "float64") for step in steps]
    table = Table(
        "optimizer", "precision", "stage", "workers", *columns, title="largest difference"
    )
    keys = ("optimizer", "precision", "stage", "workers")
    for key, group in itertools.groupby(
        sorted(rows, key=lambda row: [row[k] for k in keys]), key=lambda row: [row[k] for k in keys]
    ):
        found = list(group)
        worst = [max(row[column] for row in found) for column in columns]
        table.add_row(*map(str, key), *(f"{value:.1e}" for value in worst))
    return table


if __name__ == "__main__":
    main()
