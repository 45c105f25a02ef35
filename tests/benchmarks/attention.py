"""Attention alone: ours against eager, and against torch's SDPA, which knows no positions.

    python tests/benchmarks/attention.py --lengths 128 512 2048 --json attention.json
    python tests/benchmarks/attention.py --device cuda --dtype bfloat16

4,096 tokens on a CPU and 32,768 on a GPU, 12 heads of 64, clip distance 64. Every contender runs
in a process of its own; memory is the peak of a first forward and backward pass above that before
them. On a GPU 20 calls are queued and timed together.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

TOKENS = {"cpu": 4096, "cuda": 32768}
QUEUED = 20
HEADS, WIDTH, CLIP = 12, 64, 64
WITHOUT_POSITIONS = "torch sdpa, no positions"


def contenders(device: str) -> list[str]:
    return ["eager", "flash" if device.startswith("cuda") else "sdpa", WITHOUT_POSITIONS]


def worker(chosen: argparse.Namespace) -> None:
    """Print median seconds of forward and backward, and the peak of memory in bytes, as JSON."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    sys.path.insert(0, str(Path(__file__).parents[2]))
    from model.attention.definition import position_table
    from model.attention.interface import ALL_ATTENTION_FUNCTIONS, eager_attention_forward

    name, device, length = chosen.worker, chosen.device, chosen.lengths[0]
    torch.manual_seed(0)
    cuda = torch.device(device).type == "cuda"
    dtype = getattr(torch, chosen.dtype)
    batch = max(1, TOKENS[torch.device(device).type] // length)
    shape = (batch, length, HEADS, WIDTH)
    made = [torch.randn(shape, device=device).to(dtype) for _ in range(4)]
    q, k, v, gradient = (x.transpose(1, 2).requires_grad_() for x in made)
    rate = chosen.dropout
    table = position_table(WIDTH, CLIP).to(device, dtype)
    # Left alone, torch may take cuDNN's on a GPU; flash attention knows no float32.
    flash = cuda and dtype != torch.float32

    def forward() -> Any:
        if name == WITHOUT_POSITIONS:
            with sdpa_kernel(SDPBackend.FLASH_ATTENTION) if flash else nullcontext():
                return torch.nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=rate)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(name, eager_attention_forward)
        context, _ = attention(None, q, k, v, None, position_table=table, dropout=rate)
        return context.transpose(1, 2)

    def backward() -> None:
        torch.autograd.grad(contexts.pop(), [q, k, v], gradient)

    contexts: list[Any] = []
    before = torch.cuda.memory_allocated() if cuda else _peak()
    contexts.append(forward())
    backward()
    peak = torch.cuda.max_memory_allocated() if cuda else _peak()
    times = []
    for _ in range(chosen.rounds):
        first = seconds(lambda: contexts.append(forward()), cuda)
        times.append((first, seconds(backward, cuda)))
    forwards, backwards = (statistics.median(column) for column in zip(*times, strict=True))
    print(json.dumps({"forward": forwards, "backward": backwards, "peak_bytes": peak - before}))


def seconds(call: Callable[[], Any], cuda: bool) -> float:
    """Of one call; on a GPU between events around QUEUED calls, which do not wait for the host."""
    import torch

    if not cuda:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    # The host is ahead of the device from the start.
    torch.cuda._sleep(50_000_000)
    begin.record()
    for _ in range(QUEUED):
        call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3 / QUEUED


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 256, 512, 1024, 2048, 4096])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        worker(chosen)
        return
    rows = []
    for length in chosen.lengths:
        for name in contenders(chosen.device):
            # The last value of a repeated option is used.
            command = [sys.executable, __file__, *sys.argv[1:]]
            command += ["--worker", name, "--lengths", str(length)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            row = {"length": length, "contender": name, "dtype": chosen.dtype}
            rows.append(row | json.loads(done.stdout))
            print(
                f"{length:5} {name:25} {rows[-1]['forward'] * 1e3:9.2f} ms forward"
                f" {rows[-1]['backward'] * 1e3:9.2f} ms backward"
                f" {rows[-1]['peak_bytes'] / 2**20:8.0f} MiB",
                flush=True,
            )
    if chosen.json:
        chosen.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
