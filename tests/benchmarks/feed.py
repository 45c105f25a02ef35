"""The cost of the feed and of making samples: `python -m tests.benchmarks.feed [--json FILE]`.

All figures are medians of CPU time on one core. The corpus is random, with the sentence lengths of
Chinese prose; `--shards FOLDER` reads a prepared one instead.
"""

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
import torch
from rich.console import Console
from rich.table import Table

from pipeline.corpus.arrays import offsets_of
from pipeline.corpus.records import Sentences
from pipeline.corpus.samples.masks import Maskable, whole_word_masks
from pipeline.corpus.samples.pairs import build_pairs
from pipeline.corpus.shards.format import write_manifest, write_shard
from pipeline.corpus.shards.reader import ShardFolder, flat_pairs
from pipeline.feed.batches import Feed
from pipeline.feed.collate import collate
from pipeline.feed.order import BatchSize, sample_at
from pipeline.settings.corpus import MaskingSettings, PairSettings
from pipeline.training.objective import to_device
from tests.pipeline.corpus.made import write_corpus

BATCH, LENGTH, ROUNDS, STEPS = 256, 128, 9, 60
DYNAMIC = MaskingSettings(mode="dynamic")
SPECIAL_IDS = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}
VOCABULARY = Maskable(103, 21128, tuple(sorted(SPECIAL_IDS.values())))


def prose(documents: int) -> Sentences:
    """Sentences of about 30 tokens, and words of 1.67: the means of the shared corpus."""
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
    """Median CPU seconds of one call, after a first call that is not counted."""
    work()
    spent = []
    for _ in range(rounds):
        began = time.process_time()
        work()
        spent.append(time.process_time() - began)
    return statistics.median(spent)


def making(folder: Path) -> dict[str, float]:
    """Microseconds a sample for pairing, masking and writing; leaves a corpus in the folder."""
    text = prose(1500)
    pairs = build_pairs(text, PairSettings(), LENGTH, 101, 102, 0)
    count = len(pairs.documents)
    masks = whole_word_masks(pairs, MaskingSettings(), VOCABULARY, 0)
    work = {
        "pairs": lambda: build_pairs(text, PairSettings(), LENGTH, 101, 102, 0),
        "masks": lambda: whole_word_masks(pairs, MaskingSettings(), VOCABULARY, 0),
        "shard": lambda: write_shard(folder / "timed", pairs, masks, {}, VOCABULARY.vocab_size),
    }
    result = {
        f"make: {name} (µs)": median_seconds(job, 5) / count * 1e6 for name, job in work.items()
    }
    result["make: share of tokens masked"] = len(masks.positions) / len(pairs.input_ids)
    write_corpus(
        folder,
        (pairs, masks),
        vocab_size=VOCABULARY.vocab_size,
        special_ids=SPECIAL_IDS,
        sequence_length=LENGTH,
    )
    return result


def reading(folder: str) -> dict[str, float]:
    """Random rows a second, read 256 at a time."""
    reader = ShardFolder(folder)
    numbers = np.random.default_rng(0).integers(0, len(reader), (STEPS, BATCH))

    def rate(**columns: bool) -> float:
        return numbers.size / median_seconds(lambda: [reader.rows(n, **columns) for n in numbers])

    return {
        "read: all columns (rows/s)": rate(),
        "read: ids and labels (rows/s)": rate(words=False, masks=False),
    }


def feeding(folder: str) -> dict[str, float]:
    """Samples a second of the whole feed, and microseconds a sample for its parts."""
    result = {}
    for name, masking, micro_batch in (
        ("static masks, batch 256", None, BATCH),
        ("static masks, batch 32", None, 32),
        ("dynamic masks, batch 256", DYNAMIC, BATCH),
        ("dynamic masks, batch 32", DYNAMIC, 32),
    ):
        feed = Feed(
            [folder],
            size=BatchSize(BATCH),
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
    """Microseconds a sample for each part of the feed."""
    reader = ShardFolder(folder)
    vocabulary = reader.manifest.maskable
    positions = np.arange(BATCH)
    samples, epochs = sample_at(positions, reader.shard_rows, 0)
    rows = reader.rows(samples, multiple=8)
    pairs = flat_pairs(rows)
    batch = collate(rows, rows.masks, samples, 0, 0, BATCH)

    work: dict[str, Callable[[], object]] = {
        "order": lambda: sample_at(positions, reader.shard_rows, 0),
        "read ids and static masks": lambda: reader.rows(samples, words=False, multiple=8),
        "read ids and word starts": lambda: reader.rows(samples, masks=False, multiple=8),
        "lay end to end for masking": lambda: flat_pairs(rows),
        "draw masks": lambda: whole_word_masks(pairs, DYNAMIC, vocabulary, 0, epochs, samples),
        "collate": lambda: collate(rows, rows.masks, samples, 0, 0, BATCH),
        "pack": lambda: to_device(batch, torch.device("cpu")),
    }
    times = {}
    for name, job in work.items():
        seconds = median_seconds(lambda job=job: [job() for _ in range(STEPS)])
        times[f"part: {name} (µs/sample)"] = seconds / STEPS / BATCH * 1e6
    return times


def resuming(folder: Path, samples: int = 10**8) -> dict[str, float]:
    """Seconds to open a corpus of 10^8 samples and make the first batch after sample 10^8.

    The corpus consists of hard links to one shard; each is a separate file with its own mapping.
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
            size=BatchSize(BATCH),
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
    parser.add_argument("--shards", help="folder of a prepared corpus to read")
    parser.add_argument("--json", help="file to write the figures to")
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
