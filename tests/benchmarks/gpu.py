"""Everything that is measured on a GPU, in one command, with a report.

    python -m tests.benchmarks.gpu FOLDER
    python -m tests.benchmarks.gpu FOLDER --only step "loop base" --again

It runs the doctor and the kernels' tests, then attention, a step, LAMB and the whole loop with a
checkpoint: parts of three minutes at most. Each part leaves what it printed in FOLDER/NAME.txt and,
where it has figures, FOLDER/NAME.json. FOLDER/report.md is written anew after each part: measured
times beside those that `expect.py` computes. The same command goes on where the last one was cut
off: parts that have ended well are not run again unless --again is given. A part that fails does
not stop it.

It needs torch, Triton, transformers, numpy, pyarrow, pydantic, pyyaml, rich, fsspec, xxhash, pytest
and hypothesis; the doctor also needs Ray, and the loop DeepSpeed.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks import expect

LONGEST = 180
"""Seconds of a part"""
KERNEL_TESTS = [
    "tests/model/attention/test_triton_attention.py",
    "tests/model/fused/test_cross_entropy.py",
    "tests/pipeline/training/lamb/test_kernels.py",
]
SHAPES = ["64x128", "16x512"]
TILES = ["context=128,64,8,3", "context=64,64,4,3,168", "keys=32,64,4,3", "queries=64,32,4,3"]
"""Tile sizes that might be faster than those in use; see `kernel_code.py`."""
PROFILES = [("base", "64x512", False), ("base", "64x512", True), ("large", "32x512", False)]
"""Size, shape, whether torch.compile is on."""
LOOPS = [
    ("base", 128, 256, False),
    ("base", 512, 64, False),
    ("base", 512, 64, True),
    ("large", 128, 128, False),
    ("large", 512, 32, False),
]
"""Size, length, micro-batch, whether torch.compile is on."""
ACCUMULATION = 4


def commands(folder: Path) -> dict[str, list[str]]:
    """Arguments of Python for each part, in the order in which they run."""
    gpu = ["--device", "cuda"]
    attention = ["tests/benchmarks/attention.py", *gpu, "--dtype", "bfloat16"]
    step = ["tests/benchmarks/step.py", *gpu]
    doctor = ["-m", "jobs.doctor", "--config", "jobs/configs/demo.yaml"]
    found = {"kernels": ["-m", "pytest", "-q", *KERNEL_TESTS]}
    for length in (128, 512, 2048):
        found[f"attention {length}"] = [*attention, "--lengths", str(length)]
    found["attention without dropout"] = [*attention, "--lengths", "512", "--dropout", "0"]
    for shape in SHAPES:
        found[f"step {shape}"] = [*step, "--shapes", shape]
    profile = ["-m", "tests.benchmarks.kernel_times"]
    found["profile attention"] = [*profile, "attention", "--try", *TILES]
    for size, shape, compiled in PROFILES:
        name = f"profile {size} {shape}{' compiled' if compiled else ''}"
        also = ["--compile"] if compiled else []
        found[name] = [*profile, "step", "--size", size, "--shape", shape, *also]
    for size, length, batch, compiled in LOOPS:
        name = f"loop {size} {length}{' compiled' if compiled else ''}"
        shape = ["--size", size, "--length", str(length), "--micro-batch", str(batch)]
        found[name] = [
            *("-m", "tests.benchmarks.pretrain", *shape, "--accumulation", str(ACCUMULATION)),
            *("--precision", "bf16", "--steps", "20", "--set", f"engine.compile={compiled}"),
        ]
    found |= {
        name: [*command, "--json", str(figures_of(folder, name))]
        for name, command in found.items()
        if name != "kernels"
    }
    found["lamb"] = ["-m", "tests.benchmarks.lamb_cost", *gpu]
    return {"doctor": [*doctor, f"run.storage={folder / 'doctor'}"], **found}


def figures_of(folder: Path, part: str) -> Path:
    return folder / f"{part.replace(' ', '-')}.json"


def run(folder: Path, part: str, command: list[str]) -> dict[str, Any]:
    """Run a part, show and keep what it prints, and return how it ended."""
    start = time.monotonic()
    figures_of(folder, part).unlink(missing_ok=True)
    try:
        done = subprocess.run(
            [sys.executable, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LONGEST,
        )
        output, ended = done.stdout, "well" if done.returncode == 0 else f"code {done.returncode}"
    except subprocess.TimeoutExpired as late:
        printed = late.stdout or b""
        output = printed if isinstance(printed, str) else printed.decode(errors="replace")
        ended = f"stopped after {LONGEST} s"
    print(output, flush=True)
    figures_of(folder, part).with_suffix(".txt").write_text(output)
    return {"ended": ended, "seconds": time.monotonic() - start, "command": command}


def report(device: str, parts: dict[str, dict[str, Any]], folder: Path) -> str:
    """Markdown: how the parts ended, and measured beside expected."""
    lines = [f"# {device}", "", "| part | ended | seconds |", "|---|---|---|"]
    lines += [f"| {name} | {x['ended']} | {x['seconds']:.0f} |" for name, x in parts.items()]
    known = expect.known_device(device)
    reached = ", ".join(f"{what} at {share:.0%}" for what, share in expect.REACHED.items())
    lines += ["", "## Measured beside expected", "", f"Expected: {reached} of the peaks.", ""]
    if known is None:
        lines += [f"expect.py knows {', '.join(expect.DEVICES)}, not this device.", ""]
    lines += ["| what | measured | expected | measured / expected |", "|---|---|---|---|"]
    for name in parts:
        path = figures_of(folder, name)
        if path.exists():
            lines += rows(name, json.loads(path.read_text()), known)
    for name in parts:
        output = figures_of(folder, name).with_suffix(".txt").read_text()
        lines += ["", f"## {name}", "", "```", output.strip(), "```"]
    return "\n".join(lines) + "\n"


def rows(part: str, figures: Any, device: expect.Device | None) -> Iterator[str]:
    """Lines of the table for the figures of a part."""
    kind = part.split()[0]
    for row in figures if isinstance(figures, list) else [figures]:
        if kind == "loop":
            found = None
            if device is not None:
                shape = row["size"], row["length"], device, row["micro_batch"] * row["length"]
                found = expect.expected(*shape, ACCUMULATION, "compiled" in part)
            speed = None if found is None else found.tokens_per_second
            yield line(f"{part}: tokens/s", row["tokens_per_second"], speed, ",.0f")
            if "mfu" in row:
                yield line(f"{part}: MFU", row["mfu"], found and found.mfu, ".1%")
            yield line(f"{part}: peak of memory, GiB", row["peak_gigabytes"], None, ".1f")
        elif kind == "profile" and "kernels" in row:
            yield line(f"{part}: ms", row["milliseconds"], None, ".1f")
            if row["mfu"]:
                yield line(f"{part}: MFU", row["mfu"], None, ".1%")
        elif kind == "profile":
            what = f"{part}: {row['kernel']} {row.get('tiles', '')}, {row['length']} tokens, µs"
            yield line(what, row["seconds"] * 1e6, None, ".0f")
        elif kind == "step":
            wanted = None
            if device is not None and row["contender"] == "ours bf16":
                tokens = row["batch"] * row["length"]
                wanted = expect.network_seconds("base", row["length"], device, tokens) * 1e3
            yield line(f"{part}: {row['contender']}, ms", row["seconds"] * 1e3, wanted, ".1f")
        else:
            both = (row["forward"] + row["backward"]) * 1e3
            wanted = None
            if device is not None and row["contender"] == "flash" and "without" not in part:
                wanted = expect.attention_seconds(row["length"], device) * 1e3
            what = f"{part}: {row['contender']}, {row['length']} tokens, ms"
            yield line(what, both, wanted, ".3f")


def line(what: str, measured: float, wanted: float | None, form: str) -> str:
    if wanted is None:
        return f"| {what} | {measured:{form}} | | |"
    return f"| {what} | {measured:{form}} | {wanted:{form}} | {measured / wanted:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", metavar="NAME", help="parts whose names begin so")
    parser.add_argument("--again", action="store_true", help="also parts that have ended well")
    parser.add_argument("--dry-run", action="store_true", help="show the commands")
    chosen = parser.parse_args()
    selected = {
        name: command
        for name, command in commands(chosen.folder).items()
        if not chosen.only or name.startswith(tuple(chosen.only))
    }
    if chosen.dry_run:
        for name, command in selected.items():
            print(f"{name}: python {' '.join(command)}")
        return
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("torch finds no GPU; --dry-run shows what would be run on one")
    device = torch.cuda.get_device_name()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    state = chosen.folder / "parts.json"
    parts = json.loads(state.read_text()) if state.exists() else {}
    for name, command in selected.items():
        before = parts.get(name, {})
        if before.get("ended") == "well" and before["command"] == command and not chosen.again:
            print(f"== {name}: done before")
            continue
        print(f"\n== {name}: python {' '.join(command)}", flush=True)
        parts[name] = run(chosen.folder, name, command)
        state.write_text(json.dumps(parts, indent=1))
        (chosen.folder / "report.md").write_text(report(device, parts, chosen.folder))
    failed = [name for name, part in parts.items() if part["ended"] != "well"]
    print(f"\n{chosen.folder / 'report.md'}")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
