"""Triton kernels compiled to machine code, without a GPU.

Triton compiles only in a process in which it does not interpret: see `elsewhere`.
"""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


class MachineCode(NamedTuple):
    shared: int
    """Bytes of shared memory"""
    registers: int
    spilled: int
    """Bytes of registers that are stored in memory, inside and outside of loops"""
    serialised: bool
    """Whether the assembler runs the matrix products of a warp group one after another"""
    loops: "list[Loop]"


class Loop(NamedTuple):
    """What one turn of a loop executes in each thread."""

    instructions: int
    shared_stores: int
    barriers: int


def compiled(
    kernel: Any,
    kinds: Mapping[str, str | tuple[str, ...]],
    constants: Mapping[str, Any],
    capability: int,
    warps: int,
    stages: int = 1,
    registers: int | None = None,
    aligned: Collection[str] = (),
) -> MachineCode:
    """Compile a kernel for a compute capability, 90 for 9.0.

    registers: the most that a thread may use.
    kinds: Triton's types of the arguments that are not constants; of a tuple those of its members.
    aligned: the arguments that are multiples of 16, of a tuple all members.
    """
    names = kernel.arg_names
    source = ASTSource(
        fn=kernel,
        signature={name: "constexpr" if name in constants else kinds[name] for name in names},
        constexprs={
            (names.index(name),): value for name, value in constants.items() if name in names
        },
        attrs={
            (names.index(name), *member): [["tt.divisibility", 16]]
            for name in aligned
            for member in _members(kinds[name])
        },
    )
    log = io.StringIO()
    with contextlib.redirect_stdout(log), triton.knobs.nvidia.scope():
        triton.knobs.nvidia.dump_ptxas_log = True
        triton.knobs.compilation.always_compile = True
        made = triton.compile(
            source,
            target=GPUTarget("cuda", capability, 32),
            options={"num_warps": warps, "num_stages": stages, "maxnreg": registers},
        )
    output = log.getvalue()
    return MachineCode(
        made.metadata.shared,
        _figure(r"Used (\d+) registers", output),
        _figure(r"(\d+) bytes spill stores", output),
        "wgmma.mma_async instructions are serialized" in output,
        _loops(made.asm["sass"]),
    )


def _members(kind: str | tuple[str, ...]) -> list[tuple[int, ...]]:
    return [()] if isinstance(kind, str) else [(number,) for number in range(len(kind))]


def _figure(pattern: str, output: str) -> int:
    found = re.search(pattern, output)
    assert found, output
    return int(found[1])


def _loops(code: str) -> list[Loop]:
    """What is between each label and a jump back to it, in Triton's notation."""
    labels: dict[str, int] = {}
    instructions: list[str] = []
    found = []
    for line in code.splitlines():
        if label := re.match(r"(LBB\d+):", line):
            labels[label[1]] = len(instructions)
        elif "\t" in line:
            instructions.append(line)
            jump = re.search(r"BRA(?:\.U)? .*?(LBB\d+);", line)
            body = instructions[labels.get(jump[1], len(instructions)) :] if jump else []
            # The last instruction of a program is a jump to itself.
            if len(body) > 1:
                stores, barriers = (
                    sum(bool(re.search(rf"\b{name}\b", one)) for one in body)
                    for name in ("STSM?", "BAR")
                )
                found.append(Loop(len(body), stores, barriers))
    return found


def elsewhere(module: str, *arguments: object) -> Any:
    """The JSON that a module prints when it runs in a process in which Triton compiles."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", module, *map(str, arguments)]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])
