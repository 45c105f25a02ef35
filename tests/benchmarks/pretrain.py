"""The training loop end to end: feed, network, LAMB in DeepSpeed, its own log.

    python -m tests.benchmarks.pretrain --size tiny --length 128 --micro-batch 32
    python -m tests.benchmarks.pretrain --size large --length 512 --micro-batch 48 --json FILE

One process on one device; to use every GPU of a machine, start it with torchrun. The corpus is made
up, with the lengths of Chinese prose and 21,128 tokens; --shards reads a prepared one. Padding is
not counted; see pipeline/training/measure/flops.py for MFU.
"""

import argparse
import json
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from jobs.output.tables import table
from pipeline.corpus.samples.masks import whole_word_masks
from pipeline.corpus.samples.pairs import build_pairs
from pipeline.paths import RunPaths
from pipeline.settings.corpus import MaskingSettings, PairSettings
from pipeline.settings.reading.config_file import load_config
from pipeline.training.launch import torchrun
from pipeline.training.measure import history
from tests.benchmarks.feed import SPECIAL_IDS, VOCABULARY, prose
from tests.pipeline.corpus.made import write_corpus
from tests.small_run import fit


def write_prose(folder: Path, length: int, samples: int) -> Path:
    """A shard of made-up samples, a few more than `samples`."""
    text = prose(max(20, samples * length // 1000))
    pairs = build_pairs(text, PairSettings(), length, 101, 102, 0)
    masks = whole_word_masks(pairs, MaskingSettings(), VOCABULARY, 0)
    write_corpus(
        folder,
        (pairs, masks),
        vocab_size=VOCABULARY.vocab_size,
        special_ids=SPECIAL_IDS,
        sequence_length=length,
    )
    return folder


def run(chosen: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Train, and return medians over the logged steps except the first."""
    shards = chosen.shards or write_prose(
        folder / "shards", chosen.length, chosen.micro_batch * chosen.accumulation
    )
    workers = torchrun.world_size()
    config = load_config(
        None,
        [
            f"run.storage={folder}",
            f"model.size={chosen.size}",
            f"train.shards=[{shards}]",
            f"train.steps={chosen.steps}",
            f"train.micro_batch={chosen.micro_batch}",
            f"train.global_batch={chosen.micro_batch * chosen.accumulation * workers}",
            f"train.checkpoint_every={chosen.steps}",
            "train.log_every=2",
            "train.profile_every=4",
            f"train.precision={chosen.precision}",
            *chosen.set,
        ],
    )
    fit(config)
    records = [record for record in history.read(RunPaths.of(config).run) if "loss" in record]
    values = defaultdict(list)
    for record in records[1:]:
        for name, value in record.items():
            if name in SHOWN or name.startswith("time/"):
                values[name].append(value)
    found = {name: statistics.median(of_name) for name, of_name in values.items()}
    if torch.cuda.is_available():
        found["peak_gigabytes"] = torch.cuda.max_memory_allocated() / 2**30
    return found


SHOWN = ("tokens_per_second", "step_seconds", "mfu", "tflops_per_worker")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="base", choices=["tiny", "small", "base", "large"])
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--micro-batch", type=int, default=32)
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--shards", help="a prepared corpus")
    parser.add_argument("--set", nargs="*", default=[], metavar="a.b=c", help="any setting")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = run(chosen, Path(name))
    if torchrun.rank() == 0:
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        title = f"{chosen.size}, {chosen.micro_batch} x {chosen.length}, {device}"
        shown: dict[str, Any] = {key: f"{value:,.4g}" for key, value in found.items()}
        Console().print(table(title, shown))
        if chosen.json:
            chosen.json.write_text(json.dumps(vars(chosen) | found, indent=1, default=str))


if __name__ == "__main__":
    main()
