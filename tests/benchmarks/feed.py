"""What the feed and the making of samples cost: `python -m tests.benchmarks.feed [--json FILE]`.

Medians of CPU time on one core. The corpus is made up, with the lengths of Chinese prose; give
`--shards FOLDER` to read a prepared one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from pipeline.corpus.columns import offsets_of
from pipeline.corpus.records import Masks, Sentences
from pipeline.corpus.samples.masks import Maskable, sample_keys, whole_word_masks
from pipeline.corpus.samples.pairs import build_pairs
from pipeline.corpus.shards.format import Manifest, write_manifest, write_shard
from pipeline.corpus.shards.reader import ShardFolder, flat_pairs
from pipeline.feed.batches import Feed, pack
from pipeline.feed.collate import collate
from pipeline.feed.order import sample_at
from pipeline.settings.corpus import MaskingSettings, PairSettings

BATCH, LENGTH, ROUNDS, STEPS = 256, 128, 9, 60
DYNAMIC = MaskingSettings(mode="dynamic")
SPECIAL_IDS = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}
VOCABULARY = Maskable(103, 21128, tuple(sorted(SPECIAL_IDS.values())))


def prose(documents: int) -> Sentences:
    """Sentences of about 30 tokens in words of 1.67, as the shared corpus has them."""
    random = np.random.default_rng(0)
    sentences = random.geometric(1 / 45, documents)
    lengths = random.geometric(1 / 30, sentences.sum()) + 2
    offsets = offsets_of(lengths)
    word_starts = random.random(offsets[-1]) < 0.6
    word_starts[offsets[:-1]] = True
    return Sentences(
        random.integers(104, 21128, offsets[-1]).astype(np.int32),
        word_starts,
        offsets,
        offsets_of(sentences),
        np.arange(documents, dtype=np.uint64),
    )


def median_seconds(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Median CPU seconds of one call, after one that warms up."""
    work()
    spent = []
    for _ in range(rounds):
        began = time.process_time()
        work()
        spent.append(time.process_time() - began)
    return statistics.median(spent)


def making(folder: Path) -> dict[str, float]:
    """Microseconds a sample of pairing, masking and writing; leaves a corpus in the folder."""
    text = prose(1500)
    pairs = build_pairs(text, PairSettings(), LENGTH, 101, 102, 0)
    count = len(pairs.documents)
    keys = sample_keys(0, 0, np.arange(count, dtype=np.uint64))

    def draw() -> Masks:
        columns = pairs.input_ids, pairs.word_starts, pairs.offsets
        return whole_word_masks(*columns, keys, MaskingSettings(), VOCABULARY)

    masks = draw()
    path = folder / "shard-0.arrow"
    info = write_shard(path, pairs, masks, {}, 21128)
    work = {
        "pairs": lambda: build_pairs(text, PairSettings(), LENGTH, 101, 102, 0),
        "masks": draw,
        "shard": lambda: write_shard(path, pairs, masks, {}, 21128),
    }
    result = {
        f"make: {name} (µs)": median_seconds(job, 5) / count * 1e6 for name, job in work.items()
    }
    budgets = np.rint(0.15 * np.diff(pairs.offsets)).clip(1)
    result["make: share of budgets met exactly"] = float((np.diff(masks.offsets) == budgets).mean())
    manifest = Manifest(
        shards=(info,),
        vocab_sha256="made up",
        vocab_size=21128,
        special_ids=SPECIAL_IDS,
        sequence_length=LENGTH,
        masks="static",
    )
    write_manifest(folder, manifest)
    return result


def reading(folder: str) -> dict[str, float]:
    """Random rows a second, 256 at a time."""
    reader = ShardFolder(folder)
    numbers = np.random.default_rng(0).integers(0, len(reader), (STEPS, BATCH))

    def rate(**columns: bool) -> float:
        return numbers.size / median_seconds(lambda: [reader.rows(n, **columns) for n in numbers])

    return {
        "read: all columns (rows/s)": rate(),
        "read: ids and labels (rows/s)": rate(words=False, masks=False),
    }


def feeding(folder: str) -> dict[str, float]:
    """Samples a second of the whole feed, and microseconds a sample of its parts."""
    result = {}
    for name, masking, micro_batch in (
        ("static masks, batch 256", None, BATCH),
        ("static masks, batch 32", None, 32),
        ("dynamic masks, batch 256", DYNAMIC, BATCH),
        ("dynamic masks, batch 32", DYNAMIC, 32),
    ):
        feed = Feed(
            [folder],
            global_batch=BATCH,
            micro_batch=micro_batch,
            rank=0,
            world_size=1,
            seed=0,
            masking=masking,
        )
        seconds = median_seconds(lambda feed=feed: [feed.step(step) for step in range(STEPS)])
        result[f"feed: {name} (samples/s)"] = STEPS * BATCH / seconds
    return result | parts(folder)


def parts(folder: str) -> dict[str, float]:
    reader = ShardFolder(folder)
    vocabulary = reader.manifest.maskable
    positions = np.arange(BATCH)
    samples, epochs = sample_at(positions, reader.shard_rows, 0)
    rows = reader.rows(samples, multiple=8)
    keys = sample_keys(0, epochs, samples.astype(np.uint64))
    pairs = flat_pairs(rows)
    batch = collate(rows, rows.masks, samples, 0, 0, BATCH)

    def draw() -> Masks:
        columns = pairs.input_ids, pairs.word_starts, pairs.offsets
        return whole_word_masks(*columns, keys, DYNAMIC, vocabulary)

    work: dict[str, Callable[[], object]] = {
        "order": lambda: sample_at(positions, reader.shard_rows, 0),
        "read ids and static masks": lambda: reader.rows(samples, words=False, multiple=8),
        "read ids and word starts": lambda: reader.rows(samples, masks=False, multiple=8),
        "lay end to end for masking": lambda: flat_pairs(rows),
        "draw masks": draw,
        "collate": lambda: collate(rows, rows.masks, samples, 0, 0, BATCH),
        "pack": lambda: pack(batch),
    }
    times = {}
    for name, job in work.items():
        seconds = median_seconds(lambda job=job: [job() for _ in range(STEPS)])
        times[f"part: {name} (µs/sample)"] = seconds / STEPS / BATCH * 1e6
    return times


def resuming(folder: Path, samples: int = 10**8) -> dict[str, float]:
    """Seconds to open a corpus of 10^8 samples and make the first batch behind sample 10^8.

    The corpus is hard links to one shard; each is a file and a map of its own.
    """
    shard = ShardFolder(folder).manifest.shards[0]
    count = samples // shard.rows + 1
    many = folder / "many"
    many.mkdir()
    names = [f"shard-{number:05}.arrow" for number in range(count)]
    for name in names:
        os.link(folder / shard.name, many / name)
    manifest = ShardFolder(folder).manifest
    shards = tuple(shard.model_copy(update={"name": name}) for name in names)
    write_manifest(many, manifest.model_copy(update={"shards": shards}))
    result = {"resume: shards of the corpus": float(count)}
    for name, window in (("global shuffle", 0), ("windows of 64 shards", 64)):
        began = time.perf_counter()
        feed = Feed(
            [str(many)],
            global_batch=BATCH,
            micro_batch=BATCH,
            rank=0,
            world_size=1,
            seed=0,
            masking=DYNAMIC,
            window=window,
        )
        feed.step(samples // BATCH)
        result[f"resume: first batch, {name} (s)"] = time.perf_counter() - began
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", help="a prepared corpus to feed from")
    parser.add_argument("--json", help="file for the figures")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        figures = making(Path(scratch))
        folder = chosen.shards or scratch
        figures |= reading(folder) | feeding(folder) | resuming(Path(scratch))
    table = Table(title=f"Feed, one core, numpy {np.__version__}, {platform.machine()}")
    table.add_column("what")
    table.add_column("median", justify="right")
    for name, value in figures.items():
        table.add_row(name, f"{value:,.0f}" if value > 1000 else f"{value:.3g}")
    Console().print(table)
    if chosen.json:
        Path(chosen.json).write_text(json.dumps(figures, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
