"""What the guards against NaN, Inf and spikes cost, as a share of a training step.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.guards [a.b=c …]

One process trains with DeepSpeed and LAMB on random samples; the settings are those of a run, base
size by default. Shown are seconds (on a CPU those of the process) of a step, and of what the loop
does for its guards: after each step, at each logged step, and at each checkpoint, where all weights
are looked at (one in 100 steps). Medians of 20.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch

from pipeline.settings.reading.config_file import load_config
from pipeline.training import batch_split, engine
from pipeline.training.faults.divergence import FEWEST, DivergenceGuard
from pipeline.training.measure.random_batch import random_batch
from pipeline.training.objective import STATISTICS, PretrainingObjective
from pipeline.training.start.network import build_network, network_config, vocabulary_size

ROUNDS = 20
BETWEEN_CHECKPOINTS = 100


def main() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = load_config(None, ["train.micro_batch=4", "model.size=base", *sys.argv[1:]])
    samples = config.train.micro_batch
    network = build_network(network_config(config.model, vocabulary_size(config)), 0, "auto")
    precision = engine.resolve_precision("auto", device)
    split = batch_split.Split(samples, 1, 1)
    worker = engine.initialize(PretrainingObjective(network), config, split, precision)
    inputs = random_batch(config, samples, device=device)
    divisors = torch.full((2,), float(samples), device=device)
    sums = torch.ones(len(STATISTICS), device=device)
    guard = DivergenceGuard(config.faults, [1.0] * FEWEST)

    def step() -> None:
        worker.backward(worker(inputs, *divisors)[0])
        worker.step()

    def after_step() -> None:
        torch.where(sums.isfinite().all(), sums, 0)
        guard.after_step(1, False)

    def after_interval() -> None:
        guard.after_interval(1, 1.0)

    def at_checkpoint() -> None:
        assert engine.weights_are_finite(worker)

    every = {after_step: 1, after_interval: config.train.log_every}
    every[at_checkpoint] = BETWEEN_CHECKPOINTS
    whole, total = _median(step, device), 0.0
    print(f"a step: {whole:.4f} s ({precision}, {samples} x {config.corpus.sequence_length})")
    for part, steps in every.items():
        seconds = _median(part, device)
        total += seconds / steps / whole
        share = f"{seconds / steps / whole:.4%}"
        print(f"{part.__name__}: {1e6 * seconds:,.1f} µs, one in {steps} steps: {share}")
    print(f"all guards: {total:.4%} of a step")


def _median(call: Callable[[], None], device: torch.device) -> float:
    """Seconds of a call; on a CPU, those of this process."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    seconds = []
    for _ in range(ROUNDS + 3):
        begun = clock()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(clock() - begun)
    return statistics.median(seconds[3:])  # the first ones warm up


if __name__ == "__main__":
    main()
