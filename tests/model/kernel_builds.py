"""What the compiler makes of attention's Triton kernels, for GPUs that need not be there.

    python -m tests.model.kernel_builds 90 64 bfloat16

prints it as JSON. Not in a process in which Triton interprets.
"""

import contextlib
import io
import json
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from model import triton_attention
from model.table_factors import table_factors
from model.triton_attention import Tiles

SHARED_MEMORY = {80: 163 << 10, 86: 99 << 10, 90: 227 << 10}
"""Bytes a block may have, by compute capability: A100; RTX 3090, A10, L4; H100."""
ALWAYS_FLOAT32 = {"lse_ptr", "bias_ptr", "ends_ptr", "turns_ptr", "rows_ptr"}
FLOATS = {"scale", "keep_scale"}
CLIP = 64
POINTERS = {"bfloat16": "*bf16", "float16": "*fp16", "float32": "*fp32"}


class Build(NamedTuple):
    """A kernel as machine code."""

    tiles: Tiles
    shared: int
    """Bytes of shared memory"""
    registers: int
    spilled: int
    """Bytes of registers stored elsewhere, in and outside of loops"""
    serialised: bool
    """The assembler lets no two matrix products overlap."""
    per_element: list[float]
    """Instructions of a thread, by the elements of a tile that it has: the loop over tiles beside
    the band, then that over tiles at its edges"""


def build(
    name: str,
    tiles: Tiles,
    capability: int = 90,
    head_size: int = 64,
    dtype: str = "bfloat16",
    ones: Sequence[str] = (),
    switches: Mapping[str, bool] | None = None,
) -> Build:
    """Compile a kernel; the arguments `ones` are 1, which Triton makes a constant of."""
    kernel = getattr(triton_attention, f"{name}_kernel")
    constants = {
        **{"BIASED": False, "PACKED": True, "DROPOUT": True, "ONE_EDGE": True},
        **(switches or {}),
        "D": head_size,
        "W": 2 * len(table_factors(head_size, CLIP).frequencies),
        "QUERIES": tiles.queries,
        "KEYS": tiles.keys,
        "PRECISION": "ieee" if dtype == "float32" else "tf32",
        **dict.fromkeys(ones, 1),
    }
    signature, attributes = {}, {}
    for place, argument in enumerate(kernel.arg_names):
        signature[argument] = _kind(argument, constants, POINTERS[dtype])
        if argument.endswith(("_ptr", "_row", "_head", "_step")):
            attributes[(place,)] = [["tt.divisibility", 16]]
    places = {
        (kernel.arg_names.index(key),): value
        for key, value in constants.items()
        if key in kernel.arg_names
    }
    log = io.StringIO()
    with contextlib.redirect_stdout(log), triton.knobs.nvidia.scope():
        triton.knobs.nvidia.dump_ptxas_log = True
        triton.knobs.compilation.always_compile = True
        made = triton.compile(
            ASTSource(fn=kernel, signature=signature, constexprs=places, attrs=attributes),
            target=GPUTarget("cuda", capability, 32),
            options={"num_warps": tiles.warps, "num_stages": tiles.stages},
        )
    said = log.getvalue()
    elements = tiles.queries * tiles.keys / (tiles.warps * 32)
    return Build(
        tiles,
        made.metadata.shared,
        int(re.search(r"Used (\d+) registers", said)[1]),
        int(re.search(r"(\d+) bytes spill stores", said)[1]),
        "wgmma.mma_async instructions are serialized" in said,
        [round(count / elements, 1) for count in _loops(made.asm["sass"])],
    )


def _kind(argument: str, constants: Mapping[str, Any], pointer: str) -> str:
    if argument in constants:
        return "constexpr"
    if argument in ALWAYS_FLOAT32:
        return "*fp32"
    if argument == "cu_seqlens_ptr":
        return "*i32"
    if argument.endswith("_ptr"):
        return pointer
    if argument == "seed":
        return "i64"
    return "fp32" if argument in FLOATS else "i32"


def _loops(code: str) -> list[int]:
    """Instructions of each loop of machine code in Triton's notation."""
    labels: dict[str, int] = {}
    lengths, count = [], 0
    for line in code.splitlines():
        if label := re.match(r"(LBB\d+):", line):
            labels[label[1]] = count
        elif "\t" in line:
            count += 1
            branch = re.search(r"BRA(?:\.U)? .*?(LBB\d+);", line)
            # The program ends in a jump to itself.
            if branch and count - labels.get(branch[1], count) > 1:
                lengths.append(count - labels[branch[1]])
    return lengths


def tiles_that_ship(capability: int, head_size: int, dtype: str) -> dict[str, Tiles]:
    shared = SHARED_MEMORY[capability]
    tiles = triton_attention.tiles_for(head_size, getattr(torch, dtype), shared)
    return {**tiles, "rows": tiles["queries"]}


def builds(capability: int, head_size: int, dtype: str, *ones: str) -> dict[str, Build]:
    """All kernels with the tiles that ship."""
    return {
        name: build(name, tiles, capability, head_size, dtype, ones)
        for name, tiles in tiles_that_ship(capability, head_size, dtype).items()
    }


if __name__ == "__main__":
    found = builds(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
    print(json.dumps({name: one._asdict() for name, one in found.items()}))
