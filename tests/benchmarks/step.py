"""Forward and backward of a pre-training step, base size, dropout on, side by side.

    python tests/benchmarks/step.py --reference /tmp/nezha-4.40/bin/python --json step.json

Contenders: this repository's Nezha; BERT of the installed transformers with SDPA (on a GPU also in
bf16, where SDPA is flash attention); and, where --reference names a Python that has it, Nezha of
transformers 4.40.2 (see tests/model/make_golden.py for such an environment). Each runs in a process
of its own, which gives the peak of its memory, and they take turns step by step, so that other work
on the machine slows all alike.
transformers 5 alone takes twice the memory of 4.40.2 before there is a network: the peak is also
given above the memory after the imports.
On a machine that others use, --cpu-time counts the CPU seconds of a single thread instead.

Utilisation: the floating-point operations that the step needs (6 a weight and token; attention
12·B·S²·H a layer; the LM head for masked tokens only; no position term, nothing recomputed;
pipeline/training/measure/flops.py)
over the median time, divided by the rate of the layers' matrix products alone in the same run.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

VOCABULARY, HIDDEN, LAYERS, MASKED = 21128, 768, 12, 0.14
CONTENDERS = ["ours fp32", "ours bf16", "bert fp32", "products fp32", "products bf16"]
ON_GPUS = ["bert bf16"]
REFERENCE = "nezha 4.40.2 fp32"


def needed_flops(batch: int, length: int) -> float:
    tokens = batch * length
    layers = LAYERS * (6 * tokens * 12 * HIDDEN**2 + 12 * batch * length**2 * HIDDEN)
    words = 6 * round(tokens * MASKED) * (HIDDEN**2 + HIDDEN * VOCABULARY)
    return layers + words + 6 * batch * (HIDDEN**2 + 2 * HIDDEN)


def product_flops(batch: int, length: int) -> float:
    return LAYERS * 6 * batch * length * 12 * HIDDEN**2


def worker(name: str, batch: int, length: int, device: str, cpu_time: bool) -> None:
    """Read a line, make a step, write its seconds; at the end of input write the peak memory."""
    import torch

    sys.path.insert(0, str(Path(__file__).parents[2]))
    torch.manual_seed(0)
    if device == "cpu":
        torch.set_num_threads(1 if cpu_time else 2)
        # torch for CPUs brings no Triton, and takes 67 MB more where it finds that of the tests.
        sys.modules["triton"] = None  # type: ignore[assignment]
    clock = time.process_time if cpu_time else time.perf_counter
    kind, precision = name.rsplit(" ", 1)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    makers = {
        "ours": _ours,
        "bert": _bert,
        "products": _products,
    }
    make = makers.get(kind, _reference)
    step = make(batch, length, dtype, device)
    for _ in sys.stdin:
        start = clock()
        step()
        if device != "cpu":
            torch.cuda.synchronize()
        print(clock() - start, flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(peak if device == "cpu" else torch.cuda.max_memory_allocated(), *imported)


imported: list[int] = []
"""Bytes that the process held before it made a network."""


def _imports_end() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    imported.append(pages * resource.getpagesize())


def _inputs(batch: int, length: int, device: str) -> dict[str, Any]:
    import torch

    masked = torch.zeros(batch * length, dtype=torch.bool)
    masked[torch.randperm(batch * length)[: round(batch * length * MASKED)]] = True
    masked = masked.view(batch, length)
    ids = torch.randint(5, VOCABULARY, (batch, length))
    inputs = {
        "input_ids": ids,
        "token_type_ids": (torch.arange(length) > length // 2).long().expand(batch, -1),
        "labels": torch.where(masked, ids, -100),
        "next_sentence_label": torch.arange(batch) % 2,
    }
    return {name: value.to(device) for name, value in inputs.items()}


def _ours(batch: int, length: int, dtype: Any, device: str) -> Callable[[], None]:
    import torch

    from model import NezhaConfig, NezhaForPreTraining
    from pipeline.cpu import keep_freed_memory
    from pipeline.training.objective import Inputs, PretrainingObjective

    _imports_end()
    keep_freed_memory()
    objective = PretrainingObjective(NezhaForPreTraining(NezhaConfig())).to(device, dtype).train()
    given = _inputs(batch, length, device)
    labels = given["labels"].flatten()
    masked = (labels >= 0).nonzero().squeeze(1)
    inputs = Inputs(
        given["input_ids"].flatten(),
        given["token_type_ids"].flatten(),
        torch.arange(0, batch * length + 1, length, dtype=torch.int32, device=device),
        length,
        masked,
        labels[masked],
        given["next_sentence_label"],
    )

    def step() -> None:
        objective.zero_grad()
        loss, _, _ = objective(inputs, len(masked), batch)
        loss.backward()

    return step


def _whole(net: Any, batch: int, length: int, dtype: Any, device: str) -> Callable[[], None]:
    net = net.to(device, dtype).train()
    inputs = _inputs(batch, length, device)

    def step() -> None:
        net.zero_grad()
        net(**inputs).loss.backward()

    return step


def _bert(batch: int, length: int, dtype: Any, device: str) -> Callable[[], None]:
    from transformers import BertConfig, BertForPreTraining

    _imports_end()
    config = BertConfig(vocab_size=VOCABULARY, attn_implementation="sdpa")
    return _whole(BertForPreTraining(config), batch, length, dtype, device)


def _reference(batch: int, length: int, dtype: Any, device: str) -> Callable[[], None]:
    import transformers

    if transformers.__version__ != "4.40.2":
        raise SystemExit(f"--reference has transformers {transformers.__version__}, not 4.40.2")
    make, config = transformers.NezhaForPreTraining, transformers.NezhaConfig()
    _imports_end()
    return _whole(make(config), batch, length, dtype, device)


def _products(batch: int, length: int, dtype: Any, device: str) -> Callable[[], None]:
    """The matrix products of the layers: forward, and both of the backward pass."""
    import torch

    _imports_end()

    def pair(*shape: int) -> Any:
        return torch.randn(shape, device=device).to(dtype)

    tokens = batch * length
    shapes = [(HIDDEN, HIDDEN)] * 4 + [(4 * HIDDEN, HIDDEN), (HIDDEN, 4 * HIDDEN)]
    operands = [(pair(tokens, n_in), pair(out, n_in), pair(tokens, out)) for out, n_in in shapes]

    def step() -> None:
        for _ in range(LAYERS):
            for x, w, g in operands:
                x @ w.T
                g @ w
                g.T @ x

    return step


def measure(arguments: argparse.Namespace, batch: int, length: int) -> list[dict[str, Any]]:
    also = [] if arguments.device == "cpu" else ON_GPUS
    pythons = dict.fromkeys([*CONTENDERS, *also], sys.executable)
    if arguments.reference:
        pythons[REFERENCE] = arguments.reference
    options = ["--batch", str(batch), "--length", str(length), "--device", arguments.device]
    options += ["--cpu-time"] if arguments.cpu_time else []
    processes = {
        name: subprocess.Popen(
            [python, __file__, "--worker", name, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name, python in pythons.items()
    }
    times: dict[str, list[float]] = {name: [] for name in processes}
    for _ in range(arguments.rounds + 1):
        for name, process in processes.items():
            process.stdin.write("\n")
            process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"{name} ended; its error message is above")
            times[name].append(float(line))
    result = []
    for name, process in processes.items():
        peak, held = map(float, process.communicate()[0].split())
        # The first step warms up.
        result.append(
            {
                "contender": name,
                "batch": batch,
                "length": length,
                "seconds": statistics.median(times[name][1:]),
                "peak_bytes": peak,
                "imported_bytes": held,
            }
        )
    return result


def _above(row: dict[str, Any]) -> float:
    return row["peak_bytes"] - row["imported_bytes"]


def show(rows: list[dict[str, Any]], on_cpu: bool) -> None:
    by_name = {row["contender"]: row for row in rows}
    base = by_name.get(REFERENCE, by_name["bert fp32"])
    batch, length = base["batch"], base["length"]
    print(f"\n{batch} x {length}; speed and memory against {base['contender']}")
    for name, row in by_name.items():
        line = f"{name:18} {row['seconds']:7.3f} s  {base['seconds'] / row['seconds']:5.2f}x"
        precision = name.rsplit(" ", 1)[1]
        if "products" not in name:
            line += f"  {row['peak_bytes'] / 2**30:5.2f} GiB"
            line += f" {row['peak_bytes'] / base['peak_bytes']:4.0%}"
            if on_cpu:
                line += f" ({_above(row) / _above(base):3.0%} above imports)"
            rate = product_flops(batch, length) / by_name[f"products {precision}"]["seconds"]
            row["utilisation"] = needed_flops(batch, length) / row["seconds"] / rate
            line += f"  utilisation {row['utilisation']:4.0%}"
        else:
            line += f"  {product_flops(batch, length) / row['seconds'] / 1e9:5.0f} GFLOP/s"
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", help="a Python with transformers 4.40.2")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cpu-time", action="store_true", help="CPU seconds of one thread")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shapes", nargs="+", default=["4x128", "2x512"])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--length", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        options = arguments.batch, arguments.length, arguments.device, arguments.cpu_time
        worker(arguments.worker, *options)
        return
    rows = []
    for shape in arguments.shapes:
        found = measure(arguments, *map(int, shape.split("x")))
        show(found, arguments.device == "cpu")
        rows += found
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
