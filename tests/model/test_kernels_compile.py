"""The Triton kernels compile for GPUs that are not there, within their shared memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Bytes a block may have, by compute capability: A100; RTX 3090, A10, L4; H100.
SHARED = {80: 163 << 10, 86: 99 << 10, 90: 227 << 10}
ALWAYS_FLOAT32 = {"lse_ptr", "bias_ptr", "ends_ptr", "turns_ptr", "rows_ptr"}
FLOATS = {"scale", "keep_scale"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("capability", "head_size", "dtype"),
    [(90, 64, "bfloat16"), (86, 64, "float16"), (80, 128, "bfloat16")],
)
def test_kernels_compile(capability: int, head_size: int, dtype: str) -> None:
    shared = compiled_elsewhere(capability, head_size, dtype)
    assert len(shared) == 4
    assert max(shared.values()) <= SHARED[capability]


@pytest.mark.slow
def test_kernels_compile_for_one_head_and_one_token() -> None:
    """Triton makes a constant of an argument that is 1."""
    assert compiled_elsewhere(90, 64, "bfloat16", "heads", "queries", "keys")


def compiled_elsewhere(*arguments: object) -> dict[str, int]:
    """`compiled` in a process of its own, in which Triton compiles instead of interpreting."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, __file__, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def compiled(capability: int, head_size: int, dtype: str, *ones: str) -> dict[str, int]:
    """Shared memory of each kernel; the arguments `ones` are 1."""
    import torch
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from model import triton_attention as kernels
    from model.table_factors import table_factors

    pointer = {"bfloat16": "*bf16", "float16": "*fp16", "float32": "*fp32"}[dtype]
    tiles = kernels.tiles_for(head_size, getattr(torch, dtype), SHARED[capability])
    found = {}
    for name in ("context", "keys", "queries", "rows"):
        kernel = getattr(kernels, f"{name}_kernel")
        shape = tiles["queries" if name == "rows" else name]
        constants = {
            "BIASED": True,
            "PACKED": True,
            "DROPOUT": True,
            "D": head_size,
            "R": len(table_factors(head_size, 64).frequencies),
            "QUERIES": shape.queries,
            "KEYS": shape.keys,
            "PRECISION": "ieee" if dtype == "float32" else "tf32",
            **dict.fromkeys(ones, 1),
        }
        signature, attributes = {}, {}
        for place, argument in enumerate(kernel.arg_names):
            if argument in constants:
                signature[argument] = "constexpr"
            elif argument in ALWAYS_FLOAT32:
                signature[argument] = "*fp32"
            elif argument == "cu_seqlens_ptr":
                signature[argument] = "*i32"
            elif argument.endswith("_ptr"):
                signature[argument] = pointer
            else:
                signature[argument] = "fp32" if argument in FLOATS else "i32"
            if argument.endswith(("_ptr", "_row", "_head", "_step")):
                attributes[(place,)] = [["tt.divisibility", 16]]
        signature = {name: "i64" if name == "seed" else kind for name, kind in signature.items()}
        places = {
            (kernel.arg_names.index(key),): value
            for key, value in constants.items()
            if key in kernel.arg_names
        }
        made = triton.compile(
            ASTSource(fn=kernel, signature=signature, constexprs=places, attrs=attributes),
            target=GPUTarget("cuda", capability, 32),
            options={"num_warps": shape.warps, "num_stages": shape.stages},
        )
        found[name] = made.metadata.shared
    return found


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    print(json.dumps(compiled(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])))
