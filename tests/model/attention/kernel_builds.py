"""The machine code of the network's Triton kernels, without a GPU.

    python -m tests.model.attention.kernel_builds 90 64 bfloat16 [BIASED]

prints it as JSON.
"""

import json
import sys
from collections.abc import Mapping

import torch

from model.attention import triton_attention
from model.attention.table_factors import table_factors
from model.attention.triton_attention import Tiles
from model.attention.triton_tiles import Constants
from tests.machine_code import MachineCode, compiled

SHARED_MEMORY = {80: 163 << 10, 86: 99 << 10, 90: 227 << 10}
"""Bytes a block may have, by compute capability: A100; RTX 3090, A10, L4; H100."""
KINDS = {
    **dict.fromkeys(("lse_ptr", "bias_ptr", "rows_ptr"), "*fp32"),
    **{"cu_seqlens_ptr": "*i32", "seed": "i64"},
    **dict.fromkeys(("scale", "keep_scale"), "fp32"),
}
"""Types of arguments; other pointers are to the operands' type, other numbers are int32."""
POINTERS = {"bfloat16": "*bf16", "float16": "*fp16", "float32": "*fp32"}
CLIP = 64


def attention(
    name: str,
    tiles: Tiles,
    capability: int = 90,
    head_size: int = 64,
    dtype: str = "bfloat16",
    switches: Mapping[str, bool] | None = None,
) -> MachineCode:
    """A kernel of attention."""
    kernel = getattr(triton_attention, f"{name}_kernel")
    constants = Constants(
        **{"BIASED": False, "PACKED": True, "DROPOUT": True, "ONE_EDGE": True, **(switches or {})},
        D=head_size,
        W=2 * len(table_factors(head_size, CLIP).frequencies),
        QUERIES=tiles.queries,
        KEYS=tiles.keys,
        PRECISION="ieee" if dtype == "float32" else "tf32",
        BY_KEY=name == "keys",
        SLOTS=128,
    )
    aligned = [x for x in kernel.arg_names if x.startswith("all_") or x.endswith("_ptr")]
    kinds = {name: _kind(name, POINTERS[dtype]) for name in kernel.arg_names}
    return compiled(
        kernel, kinds, {"C": constants}, capability, tiles.warps, tiles.stages, tiles.registers,
        [*aligned, "tables"],
    )  # fmt: skip


def _kind(name: str, pointer: str) -> str | tuple[str, ...]:
    if name.startswith("all_"):
        return pointer, "i32", "i32", "i32"
    if name == "tables":
        return pointer, "*fp32", "*fp32", pointer
    return KINDS.get(name, pointer if name.endswith("_ptr") else "i32")


def tiles_that_ship(capability: int, head_size: int, dtype: str) -> dict[str, Tiles]:
    shared = SHARED_MEMORY[capability]
    return triton_attention.tiles_for(head_size, getattr(torch, dtype), shared)


def all_kernels(
    capability: int, head_size: int, dtype: str, biased: bool = False
) -> dict[str, MachineCode]:
    """With the tiles that ship."""
    switches = {"BIASED": biased}
    return {
        name: attention(name, tiles, capability, head_size, dtype, switches)
        for name, tiles in tiles_that_ship(capability, head_size, dtype).items()
    }


if __name__ == "__main__":
    found = all_kernels(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], "BIASED" in sys.argv)
    print(json.dumps({name: one._asdict() for name, one in found.items()}))
