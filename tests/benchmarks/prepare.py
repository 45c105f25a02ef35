"""Samples a second from JSONL to committed shards, length 128, static masks.

    python -m tests.benchmarks.prepare CORPUS.jsonl[.zst] VOCAB [--repeat 5] [--megabytes 200]

One core runs the same code as a Ray worker, in this process; its speed is given by wall clock and
by CPU time, for machines that others use too. The cluster part writes CORPUS often enough, each
time with its paragraphs in another order, to fill the megabytes, and runs Ray Data on two CPUs.
"""

import argparse
import json
import os
import random
import resource
import statistics
import tempfile
import threading
import time
from pathlib import Path

import psutil
import ray

from pipeline.config import CorpusSettings
from pipeline.corpus import prepare
from pipeline.corpus.parsing import documents
from pipeline.corpus.reading import Chunk, read_unit
from pipeline.corpus.results import Result
from pipeline.corpus.sources import list_sources, plan_units
from pipeline.corpus.units import Job, make_shard


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("vocab", type=Path)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--segmenters", nargs="*", default=["rjieba", "jieba"])
    chosen = parser.parse_args()
    texts = read_texts(chosen.corpus)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        one = folder / "one.jsonl"
        write_varied(one, texts, 0)
        alone = {}
        for segmenter in chosen.segmenters:
            repeat = chosen.repeat if segmenter == "rjieba" else min(3, chosen.repeat)
            alone[segmenter] = one_core(one, folder, chosen.vocab, segmenter, repeat)
        if chosen.megabytes:
            big = folder / "big.jsonl"
            write_varied(big, texts, chosen.megabytes * 1_000_000)
            two_cores(big, folder, chosen.vocab, chosen.segmenters[0], alone)


def one_core(source: Path, folder: Path, vocab: Path, segmenter: str, repeat: int) -> float:
    """Print the median speed in this process; returns samples a CPU second."""
    settings = CorpusSettings(inputs=(str(source),), segmenter=segmenter)
    wall, cpu = [], []
    for turn in range(repeat + 1):
        begun, used = time.perf_counter(), time.process_time()
        manifest = prepare.prepare(
            settings, folder / f"{segmenter}{turn}", vocab, turn, (), silent, prepare.IN_PROCESS
        )
        if turn:  # the first one loads dictionaries
            wall.append(manifest.rows / (time.perf_counter() - begun))
            cpu.append(manifest.rows / (time.process_time() - used))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{segmenter}, one core: {statistics.median(wall):,.0f} samples/s by the clock, "
        f"{statistics.median(cpu):,.0f} by CPU time (best {max(cpu):,.0f}); peak {peak:,.0f} MB"
    )
    return statistics.median(cpu)


def two_cores(source: Path, folder: Path, vocab: Path, segmenter: str, alone: dict) -> None:
    """Print the speed through Ray Data on two CPUs, and the largest worker."""
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"BENCHMARK_TIMES": str(folder)}},
    )
    settings = CorpusSettings(inputs=(str(source),), segmenter=segmenter, workers=2)
    small = CorpusSettings(inputs=(str(folder / "one.jsonl"),), segmenter=segmenter, workers=2)
    prepare.prepare(small, folder / "warm", vocab, 0, (), silent)
    prepare.make_shard = timed_shard
    peak: dict[int, float] = {}
    cpu: dict[int, float] = {}
    finished = threading.Event()
    watcher = threading.Thread(target=watch, args=(peak, cpu, finished))
    watcher.start()
    begun = time.perf_counter()
    manifest = prepare.prepare(settings, folder / "big", vocab, 0, (), print)
    seconds = time.perf_counter() - begun
    finished.set()
    watcher.join()
    ray.shutdown()
    size = source.stat().st_size / 1e6
    workers = sum(cpu.values())
    print(
        f"{segmenter}, Ray Data on two CPUs, {size:,.0f} MB: {manifest.rows / seconds:,.0f} "
        f"samples/s by the clock ({size / seconds:.1f} MB/s), "
        f"{manifest.rows / workers:,.0f} by CPU second of the workers; "
        f"{manifest.rows / seconds / 2 / alone[segmenter]:.0%} of twice one core's CPU rate; "
        f"largest worker {max(peak.values()):,.0f} MB; of both CPUs the workers got "
        f"{workers / seconds / 2:.0%}"
    )
    spans = [
        tuple(map(float, line.split())) for file in folder.glob("*.times") for line in file.open()
    ]
    first, last = min(begin for begin, _ in spans), max(end for _, end in spans)
    busy = sum(end - begin for begin, end in spans)
    print(
        f"workers had a chunk in hand {busy / 2 / (last - first):.0%} of the time from the first "
        f"to the last, {busy / 2 / seconds:.0%} of the whole run"
    )


def timed_shard(job: Job, chunk: Chunk) -> Result:
    """`make_shard`, with its times noted beside: how busy workers are whoever shares the CPUs."""
    begun = time.time()
    result = make_shard(job, chunk)
    with Path(os.environ["BENCHMARK_TIMES"], f"{os.getpid()}.times").open("a") as file:
        file.write(f"{begun} {time.time()}\n")
    return result


def watch(peak: dict[int, float], cpu: dict[int, float], finished: threading.Event) -> None:
    """Note the largest private memory and the CPU seconds of each worker of this cluster."""
    first: dict[int, float] = {}
    while not finished.wait(0.2):
        for process in psutil.Process().children(recursive=True):
            try:
                if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::"):
                    memory = process.memory_full_info().uss / 2**20
                    peak[process.pid] = max(peak.get(process.pid, 0), memory)
                    seconds = sum(process.cpu_times()[:2])
                    first.setdefault(process.pid, seconds)
                    cpu[process.pid] = seconds - first[process.pid]
            except (psutil.Error, IndexError):
                continue


def silent(line: str) -> None:
    """Progress is no part of what is measured."""


def read_texts(path: Path) -> list[str]:
    settings = CorpusSettings(inputs=(str(path),))
    return [
        document.text
        for unit in plan_units(list_sources(settings.inputs, settings), settings)
        for item in read_unit(unit, settings)
        if isinstance(item, Chunk)
        for block in item.blocks
        for document in documents(block, "text")
    ]


def write_varied(path: Path, texts: list[str], least: int) -> None:
    """Write the texts until there are enough bytes, each turn with other orders of paragraphs."""
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        while True:
            for text in texts:
                lines = text.split("\n")
                draw.shuffle(lines)
                file.write(json.dumps({"text": "\n".join(lines)}, ensure_ascii=False) + "\n")
            if file.tell() >= least:
                return


if __name__ == "__main__":
    main()
