"""The machine code of attention's kernels for a GPU, without one.

    python -m tests.benchmarks.kernel_code
    python -m tests.benchmarks.kernel_code --try context=64,64,4,3 keys=128,64,8,2

For the loops over tiles outside the band and at its edges it shows three numbers: instructions of a
thread for each of its elements of a tile; and the shared stores and the barriers of a tile. "warps"
are those that a multiprocessor holds at a time: fewer than 12 of four schedulers cannot hide the
latency of products. `--try` adds other shapes: queries, keys, warps, stages, most registers.
`kernel_times.py` measures them on a GPU.
"""

import argparse

from rich.console import Console
from rich.table import Table

from model.attention.triton_attention import INTERPRETED, KERNELS, Tiles
from tests.machine_code import MachineCode
from tests.model.attention.kernel_builds import SHARED_MEMORY, attention, tiles_that_ship


def resident_warps(made: MachineCode, warps: int, capability: int) -> int:
    """Warps that a multiprocessor holds at a time, of 64 (48 of 8.6), by registers and memory."""
    # Each warp's registers are allocated in units of 256.
    registers = -(-made.registers * 32 // 256) * 256
    # A block reserves 1 KiB for the system, of a memory 1 KiB larger than a block may have.
    memory = (SHARED_MEMORY[capability] + 1024) // (made.shared + 1024)
    most = 48 if capability == 86 else 64
    return min(65536 // (registers * warps), memory, most // warps) * warps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--capability", type=int, default=90, choices=SHARED_MEMORY)
    parser.add_argument("--head-size", type=int, default=64, choices=[16, 32, 64, 128])
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--try", nargs="*", default=[], dest="others", metavar="KERNEL=Q,K,W,S,R")
    chosen = parser.parse_args()
    if INTERPRETED:
        parser.error("TRITON_INTERPRET is set, and Triton's interpreter compiles nothing: unset it")
    target = chosen.capability, chosen.head_size, chosen.dtype
    shipped = tiles_that_ship(*target)
    shapes = [(name, shipped[name]) for name in KERNELS]
    shapes += [
        (name, Tiles(*map(int, shape.split(","))))
        for name, shape in (x.split("=") for x in chosen.others)
    ]
    table = Table("kernel", "tiles", "dropout", "outside", "at edges",
                  "registers", "spilled", "shared KiB", "warps", "serialised")  # fmt: skip
    for name, tiles in shapes:
        for dropout in (False, True):
            made = attention(name, tiles, *target, switches={"DROPOUT": dropout})
            elements = tiles.queries * tiles.keys / (tiles.warps * 32)
            table.add_row(
                name,
                ",".join(map(str, tiles)),
                "yes" if dropout else "no",
                *(
                    f"{loop.instructions / elements:.1f}, {loop.shared_stores}, {loop.barriers}"
                    for loop in made.loops
                ),
                *(str(made.registers), str(made.spilled), f"{made.shared / 1024:.0f}"),
                str(resident_warps(made, tiles.warps, chosen.capability)),
                "yes" if made.serialised else "no",
            )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
