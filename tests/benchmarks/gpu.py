"""Everything that is measured on a GPU, in one command.

    python -m tests.benchmarks.gpu FOLDER

It runs the kernels' tests, then attention, a step, LAMB and the whole loop. It prints tables and
writes figures to FOLDER as JSON. It needs torch, Triton, transformers, numpy, pyarrow, pydantic,
pyyaml, rich, fsspec, xxhash, pytest and hypothesis; the loop needs DeepSpeed too. A failure does
not stop it; failures are listed at the end.
"""

import argparse
import subprocess
import sys
from pathlib import Path

KERNEL_TESTS = [
    "tests/model/attention/test_triton_attention.py",
    "tests/pipeline/training/lamb/test_kernels.py",
]
SHAPES = ["64x128", "16x512"]
TILES = ["context=64,64,4,3", "keys=128,64,8,2", "queries=64,64,4,2"]
"""Tile sizes that might be faster than those in use; see `kernel_code.py`."""
LOOPS = [
    ("base", 128, 256, False),
    ("base", 512, 64, False),
    ("base", 512, 64, True),
    ("large", 128, 128, False),
    ("large", 512, 32, False),
]
"""Size, length, micro-batch, whether torch.compile is on."""


def commands(folder: Path) -> dict[str, list[str]]:
    gpu = ["--device", "cuda"]
    attention = ["tests/benchmarks/attention.py", *gpu, "--dtype", "bfloat16"]
    two_lengths = [*attention, "--lengths", "512", "2048"]
    step = ["tests/benchmarks/step.py", *gpu, "--shapes", *SHAPES]
    found = {
        "kernels": ["-m", "pytest", "-q", *KERNEL_TESTS],
        "attention": [*attention, "--json", str(folder / "attention.json")],
        "dropout": [*two_lengths, "--dropout", "0.1"],
        "step": [*step, "--json", str(folder / "step.json")],
        "lamb": ["-m", "tests.benchmarks.lamb_cost", *gpu],
    }
    for tiles in TILES:
        found[f"tiles {tiles}"] = [*two_lengths, "--tiles", tiles]
    for size, length, batch, compiled in LOOPS:
        name = f"loop {size} {length}{' compiled' if compiled else ''}"
        shape = ["--size", size, "--length", str(length), "--micro-batch", str(batch)]
        found[name] = [
            *("-m", "tests.benchmarks.pretrain", *shape),
            *("--precision", "bf16", "--steps", "40", "--set", f"engine.compile={compiled}"),
            *("--json", str(folder / f"{name.replace(' ', '-')}.json")),
        ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", metavar="NAME", help="names that begin so")
    parser.add_argument("--dry-run", action="store_true", help="show the commands")
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    failed = []
    for name, command in commands(chosen.folder).items():
        if chosen.only and not name.startswith(tuple(chosen.only)):
            continue
        print(f"\n== {name}: python {' '.join(command)}", flush=True)
        if not chosen.dry_run and subprocess.run([sys.executable, *command]).returncode:
            failed.append(name)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
