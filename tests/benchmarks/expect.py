"""The time that a training step should take on a GPU, kernel by kernel, without one.

    python -m tests.benchmarks.expect
    python -m tests.benchmarks.expect --device H100 --size base --length 512 --parts

A kernel takes as long as the slowest of what it needs: matrix products, memory traffic,
instructions, or the time between two launches of the host. Rates are shares of the device's peaks
that good kernels reach (REACHED). Instructions of attention are the compiler's, which
`kernel_code.py` counts. `gpu.py` puts measured times beside these.

One device, bf16, packed sequences of one length, 15 % of the tokens masked, dropout on. The
optimizer's step is spread over --accumulation micro-batches. Communication between devices is not
part of it.
"""

import argparse
from collections.abc import Iterator
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from model import NezhaConfig
from model.attention.table_factors import table_factors
from model.attention.triton_attention import Tiles, tiles_for
from pipeline.training.measure.flops import Counts, needed_flops, peak_tflops
from pipeline.training.start.network import SIZES


class Device(NamedTuple):
    """What a GPU can do at most; its peak of matrix products is in flops.py."""

    name: str
    """As CUDA reports it"""
    memory: float
    """Bytes a second"""
    processors: int
    clock: float
    """Hertz, boosted"""
    shared: int
    """Bytes of shared memory a block may have"""

    def seconds(self, part: "Part") -> float:
        peak = peak_tflops(self.name, "bf16")
        assert peak is not None
        # A multiprocessor issues four instructions of 32 threads a cycle.
        issue = self.processors * 4 * 32 * self.clock
        limits = (
            part.flops / (peak * 1e12 * REACHED["products"]),
            part.bytes / (self.memory * REACHED["memory"])
            + part.sums / (self.memory * REACHED["column sums"]),
            part.instructions / (issue * REACHED["instructions"]),
        )
        return max(*limits, part.calls * LAUNCH)


DEVICES = {
    "A100": Device("NVIDIA A100-SXM4-80GB", 2.039e12, 108, 1.41e9, 163 << 10),
    "H100": Device("NVIDIA H100 80GB HBM3", 3.35e12, 132, 1.83e9, 227 << 10),
    "H200": Device("NVIDIA H200", 4.8e12, 132, 1.83e9, 227 << 10),
}
REACHED = {"products": 0.72, "memory": 0.85, "column sums": 0.33, "instructions": 0.53}
"""Shares of the peaks, as measured on an H100 (RESULTS.md)"""
LAUNCH = 5e-6
"""Assumed seconds between two kernels that Python launches one by one"""
MASKED = 0.15
MICRO_BATCH_TOKENS = 32768
LAMB_BYTES = 40 + 4 + 6 + 4
"""A weight and step: LAMB's two passes, the norm of the gradients, casts to and from bf16"""
ACCUMULATED_BYTES = 2 + 4 + 4 + 2
"""A weight and micro-batch: a bf16 gradient is written, read and added to one in float32."""

ENGINE = "sums of gradients", "LAMB"
"""Parts that are not of the network"""
INSTRUCTIONS = {
    "context": (18.2, 31.9, 3300),
    "queries": (21.1, 39.0, 4200),
    "keys": (26.4, 34.8, 2500),
}
"""Of a thread for each element of a tile outside the band and at its edges, as `kernel_code.py`
counts them, and for each of its own rows outside of the loops, as counted on an H100: compute
capability 9.0, bf16, head size 64, dropout, Triton 3.6.0"""


class Part(NamedTuple):
    """What a kind of kernel needs in one micro-batch, all its calls together."""

    name: str
    calls: float
    flops: float = 0
    bytes: float = 0
    instructions: float = 0
    sums: float = 0
    """Bytes that kernels read which add rows up"""


def tile_counts(length: int, tiles: Tiles, by_key: bool, clip: int) -> tuple[int, int]:
    """Tiles of a sequence and head outside the band, and in it; as `triton_tiles.tile_spans`."""
    own, other = (tiles.keys, tiles.queries) if by_key else (tiles.queries, tiles.keys)
    others = -(-length // other)
    whole = others if by_key else length // other
    outside = banded = 0
    for first in range(0, length, own):
        left = min(max(first - clip, 0) // other, whole)
        right = min(max(-(-(first + own + clip) // other), left), others)
        end = max(whole, right)
        outside += left + end - right
        banded += right - left + others - end
    return outside, banded


def attention_part(
    kernel: str, shape: NezhaConfig, sequences: int, length: int, device: Device
) -> Part:
    """One of attention's kernels in all layers."""
    width, clip = shape.attention_head_size, shape.max_relative_position
    tiles = tiles_for(width, torch.bfloat16, device.shared)[kernel]
    outside, banded = tile_counts(length, tiles, kernel == "keys", clip)
    heads = shape.num_hidden_layers * sequences * shape.num_attention_heads
    elements = heads * tiles.queries * tiles.keys
    beside, at_edges, of_row = INSTRUCTIONS[kernel]
    rows = heads * -(-length // (tiles.keys if kernel == "keys" else tiles.queries))
    rows *= tiles.keys if kernel == "keys" else tiles.queries
    waves = 2 * len(table_factors(width, clip).frequencies)
    products = {"context": (2, 2), "queries": (3, 3), "keys": (4, 2)}[kernel]
    return Part(
        f"attention: {kernel}",
        shape.num_hidden_layers,
        2 * elements * (products[0] * width * (outside + banded) + products[1] * waves * banded),
        0,
        elements * (beside * outside + at_edges * banded) + rows * of_row,
    )


def parts(
    shape: NezhaConfig, tokens: int, length: int, device: Device, accumulation: int, compiled: bool
) -> Iterator[Part]:
    """Of forward and backward pass of a micro-batch, and of its share of the optimizer's step."""
    layers, width, inner = shape.num_hidden_layers, shape.hidden_size, shape.intermediate_size
    sequences, masked = tokens // length, round(tokens * MASKED)
    x, wide = 2 * tokens * width, 2 * tokens * inner
    weights = 4 * width**2 + 2 * width * inner
    # Forward, gradients of inputs, gradients of weights
    yield Part("linear layers", 18 * layers, 6 * layers * tokens * weights,
               layers * (3 * 10 * x + 3 * 2 * wide))  # fmt: skip
    yield Part("gradients of their biases", 6 * layers, sums=layers * (5 * x + wide))
    for kernel in INSTRUCTIONS:
        yield attention_part(kernel, shape, sequences, length, device)
    yield Part("GELU", 2 * layers, 0, layers * 5 * wide)
    if compiled:
        # After each half of a layer one kernel forward and two backward; a sum of three gradients
        yield Part("dropout, residuals, LayerNorm", 8 * layers, 0, layers * (2 * (4 + 6) + 5) * x)
    else:
        # Dropout keeps a byte an element.
        yield Part("dropout", 4 * layers, 0, layers * 2 * 5 * x)
        yield Part("LayerNorm", 6 * layers, 0, layers * 2 * 5 * x, sums=layers * 2 * 2 * x)
        # Two residuals forward and backward; the gradients of queries, keys and values
        yield Part("additions", 6 * layers, 0, layers * 6 * 3 * x)
    yield Part("embeddings", 20, 0, 20 * x)
    vocabulary = shape.vocab_size
    head_flops = 6 * masked * width * (width + vocabulary)
    scores = 2 * masked * vocabulary
    yield Part("vocabulary: products", 6, head_flops, 3 * scores + 6 * width * vocabulary)
    yield Part("vocabulary: loss and gradient", 2, 0, 4 * scores)
    matrices = layers * weights + width * (vocabulary + width)
    yield Part(ENGINE[0], 16 * layers, 0, matrices * ACCUMULATED_BYTES)
    yield Part(ENGINE[1], 40 / accumulation, 0, matrices * LAMB_BYTES / accumulation)


class Expected(NamedTuple):
    """Of a micro-batch."""

    seconds: dict[str, float]
    tokens_per_second: float
    mfu: float


def expected(
    size: str, length: int, device: Device, tokens: int, accumulation: int, compiled: bool = False
) -> Expected:
    shape = NezhaConfig(**SIZES[size])
    found = {
        part.name: device.seconds(part)
        for part in parts(shape, tokens, length, device, accumulation, compiled)
    }
    total = sum(found.values())
    counts = Counts(round(tokens * MASKED), tokens // length, tokens, tokens * length)
    peak = peak_tflops(device.name, "bf16")
    assert peak is not None
    mfu = needed_flops(shape, counts) / total / peak / 1e12
    return Expected(found, tokens / total, mfu)


def network_seconds(size: str, length: int, device: Device, tokens: int) -> float:
    """Of forward and backward pass of a micro-batch, as step.py measures them."""
    found = expected(size, length, device, tokens, 1).seconds
    return sum(seconds for name, seconds in found.items() if name not in ENGINE)


def attention_seconds(length: int, device: Device) -> float:
    """Of forward and backward pass of one attention of base size, as attention.py measures them."""
    shape = NezhaConfig(num_hidden_layers=1)
    sequences = MICRO_BATCH_TOKENS // length
    found = [attention_part(kernel, shape, sequences, length, device) for kernel in INSTRUCTIONS]
    return sum(map(device.seconds, found))


def known_device(name: str) -> Device | None:
    """The device of DEVICES that CUDA reports by this name, of whatever memory."""
    return next((device for key, device in DEVICES.items() if key in name), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", nargs="*", default=list(DEVICES), choices=DEVICES)
    parser.add_argument("--size", nargs="*", default=["base", "large"])
    parser.add_argument("--length", nargs="*", type=int, default=[128, 512])
    parser.add_argument("--tokens", type=int, default=MICRO_BATCH_TOKENS, help="of a micro-batch")
    parser.add_argument("--accumulation", type=int, default=8, help="micro-batches of a step")
    parser.add_argument("--compiled", action="store_true", help="with torch.compile")
    parser.add_argument("--parts", action="store_true", help="the time of each kind of kernel")
    chosen = parser.parse_args()
    console = Console(width=110)
    totals = Table("device", "size", "length", "ms a micro-batch", "tokens/s", "MFU")
    for name in chosen.device:
        for size in chosen.size:
            for length in chosen.length:
                device = DEVICES[name]
                counts = chosen.tokens, chosen.accumulation
                found = expected(size, length, device, *counts, chosen.compiled)
                total = sum(found.seconds.values())
                totals.add_row(name, size, str(length), f"{total * 1e3:.1f}",
                               f"{found.tokens_per_second:,.0f}", f"{found.mfu:.0%}")  # fmt: skip
                if chosen.parts:
                    rows = Table(f"{name}, {size}, {length}", "ms", "share")
                    for part, seconds in found.seconds.items():
                        rows.add_row(part, f"{seconds * 1e3:.2f}", f"{seconds / total:.0%}")
                    console.print(rows)
    console.print(totals)


if __name__ == "__main__":
    main()
