"""For how long a checkpoint stops training, and how much it slows it.

    python -m tests.benchmarks.checkpoint [--rounds 5] [a.b=c …]

DeepSpeed trains on random samples, on one worker with all CPUs (or a GPU); the settings are those
of a run, base size by default. In a turn it makes a few steps, saves a checkpoint, and makes steps
until it is complete. Shown are medians over the turns:

- blocked: seconds for which the save stopped the training,
- lost: these, and what the steps beside the background writing took longer than the others,
- slower: the lost time as a share of --every steps,
- gigabytes: the size of the checkpoint's files.

Every other turn saves nothing: what the "lost" time of such a turn shows is the noise.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from pipeline.settings.config import Config
from pipeline.settings.reading.config_file import dump_yaml, load_config
from pipeline.training import batch_split, engine
from pipeline.training.checkpoints.writer import Writer
from pipeline.training.measure.random_batch import random_batch
from pipeline.training.objective import PretrainingObjective
from pipeline.training.start.network import build_network, network_config, vocabulary_size

STEPS = 3
"""Steps before a checkpoint, and the fewest after it."""


def turns(config: Config, folder: Path) -> Iterator[dict[str, Any]]:
    """What each turn took; the first saves a checkpoint, the second does not, and so on."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    samples = config.train.micro_batch
    network = build_network(network_config(config.model, vocabulary_size(config)), 0, "auto")
    precision, split = engine.resolve_precision("auto", device), batch_split.Split(samples, 1, 1)
    worker = engine.initialize(PretrainingObjective(network), config, split, precision)
    inputs = random_batch(config, samples, device=device)
    divisors = torch.tensor([len(inputs.masked_labels), samples], device=device).float()
    writer = Writer(folder, config.train, print)

    def step() -> float:
        begun = time.monotonic()
        worker.backward(worker(inputs, *divisors)[0])
        worker.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.monotonic() - begun

    turn = 0
    while True:
        turn += 1
        plain = [step() for _ in range(STEPS)]
        begun = time.monotonic()
        if turn % 2:
            writer.begin(worker, turn, {"step": turn}, dump_yaml(config))
        blocked, beside = time.monotonic() - begun, []
        while (writer._thread and writer._thread.is_alive()) or len(beside) < STEPS:
            beside.append(step())
        files = folder.glob(f"checkpoint_{turn:06d}/*")
        size = sum(path.stat().st_size for path in files)
        yield {"plain": plain, "blocked": blocked, "beside": beside, "bytes": size}


def summarize(found: list[dict[str, Any]], every: int) -> dict[str, float]:
    step = statistics.median(seconds for turn in found for seconds in turn["plain"])

    def lost(turn: dict[str, Any]) -> float:
        usual = statistics.median(turn["plain"])
        return turn["blocked"] + sum(seconds - usual for seconds in turn["beside"])

    saves, rests = found[::2], found[1::2]
    cost = statistics.median(map(lost, saves))
    return {
        "step, s": step,
        "blocked, s": statistics.median(turn["blocked"] for turn in saves),
        "lost, s": cost,
        "lost without a checkpoint, s": statistics.median(map(lost, rests)),
        f"slower at one in {every} steps, %": 100 * cost / (every * step),
        "gigabytes": saves[-1]["bytes"] / 1e9,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--every", type=int, default=100, help="steps between two checkpoints")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="a setting and its value")
    arguments = parser.parse_intermixed_args()
    config = load_config(None, ["train.micro_batch=16", "model.size=base", *arguments.overrides])
    with tempfile.TemporaryDirectory() as folder:
        made = turns(config, Path(folder))
        found = [next(made) for _ in range(2 * arguments.rounds + 2)]
    figures = summarize(found[2:], arguments.every)  # the first two warm up
    print(" · ".join(f"{key} {value:.3f}" for key, value in figures.items()))
    if arguments.output:
        arguments.output.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
