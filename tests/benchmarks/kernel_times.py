"""Where the time of a GPU goes, kernel by kernel, in one process.

    python -m tests.benchmarks.kernel_times step --size base --shape 64x512 [--compile]
    python -m tests.benchmarks.kernel_times attention --lengths 512 --try context=128,64,8,3

`step` is forward and backward of a micro-batch in bf16, without padding and optimizer: its time,
tokens a second, MFU, peak of memory, and the kernels that take most. `attention` is one layer of
base size over 32,768 tokens: each kernel with the tiles that ship and with those of `--try`
(queries, keys, warps, stages, most registers), beside torch's flash attention and cuDNN's, which
know no positions. Times of kernels are the profiler's, the mean of five calls after two. Check new
tiles with `compute-sanitizer`: with Triton 3.6 the tiles 64,64,8,2 of `queries` read outside their
shared memory, and often nothing crashes.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from model import NezhaConfig, NezhaForPreTraining
from model.attention import triton_attention as attention
from pipeline.training.engine import compile_layers
from pipeline.training.measure.flops import Counts, needed_flops, peak_tflops
from pipeline.training.objective import Inputs, PretrainingObjective
from pipeline.training.start.network import SIZES

WARM_UP, CALLS, SHOWN = 2, 5, 25
TOKENS, HEADS, WIDTH, CLIP = 32768, 12, 64, 64
MASKED = 0.15


def kernel_times(call: Callable[[], object]) -> dict[str, tuple[float, float]]:
    """Seconds and launches of each kernel in a call."""
    for _ in range(WARM_UP):
        call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(CALLS):
            call()
        torch.cuda.synchronize()
    return {
        event.key: (event.self_device_time_total / 1e6 / CALLS, event.count / CALLS)
        for event in found.key_averages()
        if event.self_device_time_total > 0
    }


def event_seconds(call: Callable[[], object], rounds: int = 3, queued: int = 8) -> float:
    """Of a call, the median of rounds of several."""
    times = []
    for _ in range(rounds):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(queued):
            call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3 / queued)
    return statistics.median(times)


def micro_batch(batch: int, length: int, vocabulary: int) -> Inputs:
    ids = torch.randint(5, vocabulary, (batch * length,))
    masked = torch.randperm(batch * length)[: round(batch * length * MASKED)].sort().values
    starts = torch.arange(0, batch * length + 1, length, dtype=torch.int32)
    return Inputs(ids, ids * 0, starts, length, masked, ids[masked], torch.arange(batch) % 2)


def step(chosen: argparse.Namespace) -> dict[str, Any]:
    batch, length = map(int, chosen.shape.split("x"))
    shape = NezhaConfig(**SIZES[chosen.size])
    objective = PretrainingObjective(NezhaForPreTraining(shape)).bfloat16().train()
    inputs = micro_batch(batch, length, shape.vocab_size)
    if chosen.compile:
        compile_layers(objective)

    def call() -> None:
        objective.zero_grad()
        loss, _, _ = objective(inputs, len(inputs.masked_labels), batch)
        loss.backward()

    kernels = kernel_times(call)
    seconds = event_seconds(call)
    counts = Counts(len(inputs.masked_labels), batch, batch * length, batch * length**2)
    peak = peak_tflops(torch.cuda.get_device_name(), "bf16")
    return {
        "milliseconds": seconds * 1e3,
        "tokens_per_second": batch * length / seconds,
        "mfu": peak and needed_flops(shape, counts) / seconds / peak / 1e12,
        "peak_gigabytes": torch.cuda.max_memory_allocated() / 2**30,
        "kernels": kernels,
    }


def show_step(found: dict[str, Any], console: Console) -> None:
    for name in ("milliseconds", "tokens_per_second", "mfu", "peak_gigabytes"):
        console.print(f"{name}: {found[name]:,.4g}" if found[name] else f"{name}: unknown")
    total = sum(seconds for seconds, _ in found["kernels"].values())
    table = Table("kernel", "launches", "ms", "share", title=f"{total * 1e3:.1f} ms in kernels")
    for name, (seconds, launches) in sorted(found["kernels"].items(), key=lambda x: -x[1][0])[
        :SHOWN
    ]:
        row = f"{launches:.0f}", f"{seconds * 1e3:.3f}", f"{seconds / total:.1%}"
        table.add_row(name[:100], *row)
    console.print(table)


def attention_times(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each length, kernel and shape of its tiles."""
    others = [(kernel, shape) for kernel, shape in (x.split("=") for x in chosen.others)]
    rows, shipped = [], attention._tiles
    for length in chosen.lengths:
        for name, backend in (("flash", "FLASH_ATTENTION"), ("cuDNN", "CUDNN_ATTENTION")):
            times = kernel_times(_plain(length, chosen.dropout, getattr(SDPBackend, backend)))
            seconds = sum(x for x, _ in times.values())
            rows.append({"length": length, "kernel": f"{name}, all", "seconds": seconds})
        call = _ours(length, chosen.dropout)
        rows += _rows(length, kernel_times(call), attention.KERNELS)
        for kernel, shape in others:
            tiles = attention.Tiles(*map(int, shape.split(",")))
            attention._tiles = lambda x, one={kernel: tiles}: shipped(x) | one
            rows += _rows(length, kernel_times(call), [kernel], shape)
            attention._tiles = shipped
    return rows


def _rows(length: int, times: dict[str, Any], kernels: Any, tiles: str = "") -> list[dict]:
    return [
        {"length": length, "kernel": one, "tiles": tiles, "seconds": times[f"{one}_kernel"][0]}
        for one in kernels
    ]


def _plain(length: int, dropout: float, backend: SDPBackend) -> Callable[[], None]:
    shape = (TOKENS // length, HEADS, length, WIDTH)
    q, k, v = (torch.randn(shape, dtype=torch.bfloat16).requires_grad_() for _ in range(3))
    gradient = torch.randn_like(q)

    def call() -> None:
        with sdpa_kernel(backend):
            out = torch.nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        torch.autograd.grad(out, [q, k, v], gradient)

    return call


def _ours(length: int, dropout: float) -> Callable[[], None]:
    made = [torch.randn(1, TOKENS, HEADS, WIDTH, dtype=torch.bfloat16) for _ in range(4)]
    q, k, v, gradient = (x.transpose(1, 2).requires_grad_() for x in made)
    starts = torch.arange(0, TOKENS + 1, length, dtype=torch.int32)
    seed = torch.tensor(7, device="cpu") if dropout else None

    def call() -> None:
        given = q, k, v, None, starts, CLIP, length, dropout, 0, WIDTH**-0.5, seed
        out, _ = attention.triton_attention(*given)
        torch.autograd.grad(out, [q, k, v], gradient)

    return call


def show_attention(rows: list[dict[str, Any]], console: Console) -> None:
    table = Table("length", "kernel", "tiles", "µs")
    for row in rows:
        tiles = row.get("tiles", "")
        table.add_row(str(row["length"]), row["kernel"], tiles, f"{row['seconds'] * 1e6:.0f}")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["step", "attention"])
    parser.add_argument("--size", default="base", choices=SIZES)
    parser.add_argument("--shape", default="64x512", help="samples x tokens of a micro-batch")
    parser.add_argument("--compile", action="store_true", help="as engine.compile does")
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 512, 2048])
    parser.add_argument("--dropout", type=float, default=0.1, help="of attention")
    parser.add_argument("--try", nargs="*", default=[], dest="others", metavar="KERNEL=Q,K,W,S,R")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("torch finds no GPU")
    torch.manual_seed(0)
    torch.set_default_device("cuda")
    console = Console(width=140)
    found: Any
    if chosen.what == "step":
        found = step(chosen)
        show_step(found, console)
    else:
        found = attention_times(chosen)
        show_attention(found, console)
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
