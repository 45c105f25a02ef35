"""For how long a checkpoint stops training, and how much it slows it: beside older code.

    git worktree add /tmp/old d90843f
    python tests/benchmarks/checkpoint.py --old /tmp/old

A process for each code trains the base-size network with DeepSpeed on random samples, on one worker
with all CPUs (or a GPU). The processes take turns. In a turn a process makes a few steps, saves a
checkpoint, and makes steps until it is complete. Shown are medians over the turns:

- blocked: seconds for which the save stopped the training,
- lost: these, and what the steps beside the background writing took longer than the others,
- slower: the lost time as a share of --every steps,
- gigabytes: the size of the checkpoint's files.

Every other turn saves nothing: what the "lost" time of such a turn shows is the noise.
"""

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

STEPS = 3
"""Steps before a checkpoint, and the fewest after it."""
VOCABULARY, MASKED = 21128, 0.15


def serve(arguments: argparse.Namespace) -> None:
    """Make a turn for each line of the input, `save` or `rest`, and print what it took."""
    sys.path.insert(0, str(arguments.serve))
    import torch

    from model import NezhaConfig, NezhaForPreTraining
    from pipeline.settings.config import Config
    from pipeline.training import batch_split, engine
    from pipeline.training.objective import Inputs, PretrainingObjective

    new = (arguments.serve / "pipeline/settings/reading").exists()
    module = "pipeline.settings.reading.config_file" if new else "pipeline.settings.config_file"
    dump_yaml = importlib.import_module(module).dump_yaml
    batch, length = arguments.batch, arguments.length
    config, split = Config(), batch_split.Split(batch, 1, 1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = engine.resolve_precision("auto", device)
    torch.manual_seed(0)
    shape = NezhaConfig(**json.loads(arguments.network))
    network = NezhaForPreTraining(shape)
    worker = engine.initialize(PretrainingObjective(network), config, split, precision)
    ids = torch.randint(5, VOCABULARY, (batch * length,), device=device)
    masked = torch.randperm(len(ids), device=device)[: round(len(ids) * MASKED)].sort().values
    inputs = Inputs(
        ids,
        torch.zeros_like(ids),
        torch.arange(0, len(ids) + 1, length, dtype=torch.int32, device=device),
        length,
        masked,
        ids[masked],
        torch.arange(batch, device=device) % 2,
    )
    divisors = torch.tensor([len(masked), batch], dtype=torch.float32, device=device)

    def step() -> float:
        begun = time.monotonic()
        worker.backward(worker(inputs, *divisors)[0])
        worker.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.monotonic() - begun

    folder = Path(arguments.folder)
    saver = (
        _background
        if (arguments.serve / "pipeline/training/checkpoints/writer.py").exists()
        else _inline
    )
    save, writes = saver(worker, folder, config, dump_yaml(config))
    for turn, line in enumerate(sys.stdin, 1):
        plain = [step() for _ in range(STEPS)]
        begun = time.monotonic()
        if line.strip() == "save":
            save(turn)
        blocked, beside = time.monotonic() - begun, []
        while writes() or len(beside) < STEPS:
            beside.append(step())
        files = folder.glob(f"checkpoint_{turn:06d}/*")
        size = sum(path.stat().st_size for path in files)
        print(
            json.dumps({"plain": plain, "blocked": blocked, "beside": beside, "bytes": size}),
            flush=True,
        )


def _background(worker: Any, folder: Path, config: Any, text: str) -> Any:
    from pipeline.training.checkpoints.writer import Writer

    writer = Writer(folder, config.train, print)

    def is_writing() -> bool:
        return writer._thread is not None and writer._thread.is_alive()

    return (lambda step: writer.begin(worker, step, {}, text)), is_writing


def _inline(worker: Any, folder: Path, config: Any, text: str) -> Any:
    from pipeline.training.checkpoints import files, state

    def save(step: int) -> None:
        state.save(worker, folder, step, {}, text)
        files.prune(folder, 2, {files.best(folder)})

    return save, lambda: False


def measure(arguments: argparse.Namespace, scratch: Path) -> dict[str, list[dict[str, Any]]]:
    trees = {"new": Path(__file__).parents[2]} | ({"old": arguments.old} if arguments.old else {})
    options = ["--batch", str(arguments.batch), "--length", str(arguments.length)]
    options += ["--network", arguments.network]
    processes = {
        name: subprocess.Popen(
            [sys.executable, __file__, "--serve", tree, "--folder", scratch / name, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=tree,
        )
        for name, tree in trees.items()
    }
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in processes}
    for turn in range(2 * arguments.rounds + 2):
        for name, process in processes.items():
            assert process.stdin
            assert process.stdout
            process.stdin.write("rest\n" if turn % 2 else "save\n")
            process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"{name} ended; its error message is above")
            turns[name].append(json.loads(line))
    for process in processes.values():
        process.communicate()
    return {name: each[2:] for name, each in turns.items()}  # the first two warm up


def summarize(turns: list[dict[str, Any]], every: int) -> dict[str, float]:
    step = statistics.median(seconds for turn in turns for seconds in turn["plain"])

    def lost(turn: dict[str, Any]) -> float:
        usual = statistics.median(turn["plain"])
        return turn["blocked"] + sum(seconds - usual for seconds in turn["beside"])

    saves, rests = turns[::2], turns[1::2]
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
    parser.add_argument("--old", type=Path, help="a checkout of older code to compare with")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--every", type=int, default=100, help="steps between two checkpoints")
    parser.add_argument("--network", default="{}", help="fields of NezhaConfig, as JSON")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments)
        return
    with tempfile.TemporaryDirectory() as scratch:
        turns = measure(arguments, Path(scratch))
    figures = {name: summarize(each, arguments.every) for name, each in turns.items()}
    for name, values in figures.items():
        print(name, " · ".join(f"{key} {value:.3f}" for key, value in values.items()))
    if arguments.output:
        arguments.output.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
