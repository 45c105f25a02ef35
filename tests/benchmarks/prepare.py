"""Samples a second from JSONL to committed shards, length 128, static masks.

    python -m tests.benchmarks.prepare CORPUS.jsonl[.zst] VOCAB [--repeat 5] [--megabytes 200]
        [--peer CLONE]

First, this process runs the code of a Ray worker on one core; its speed is given by wall clock and
by CPU time, which is steadier on a machine with other users. Then Ray Data runs on two CPUs, on
copies of CORPUS that fill the megabytes; each copy has its paragraphs in another order.
"""

import argparse
import collections
import contextlib
import json
import multiprocessing
import os
import random
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import ray
from rich.console import Console

from jobs.output.progress import ConsoleProgress
from pipeline.corpus import prepare
from pipeline.corpus.run.inputs import list_inputs
from pipeline.corpus.run.tally import Result
from pipeline.corpus.run.work import Job, make_shard
from pipeline.corpus.shards.format import Manifest
from pipeline.corpus.text.parsing import documents
from pipeline.corpus.text.reading import Chunk, read_unit
from pipeline.corpus.text.sources import list_sources
from pipeline.corpus.text.units import plan_units
from pipeline.settings.corpus import CorpusSettings
from tests.benchmarks import prepare_peers
from tests.pipeline.corpus.preparing import IN_PROCESS
from tests.reported import Lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("vocab", type=Path)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--segmenters", nargs="*", default=["rjieba", "jieba"])
    parser.add_argument("--peer", type=Path, help="a clone of brightmart/roberta_zh or BERT")
    chosen = parser.parse_args()
    texts = read_texts(chosen.corpus)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        one = folder / "one.jsonl"
        write_varied(one, texts, 0)
        compare(texts[:: max(1, len(texts) // 500)], folder, chosen.vocab, chosen.peer)
        alone = {}
        for segmenter in chosen.segmenters:
            repeat = chosen.repeat if segmenter == "rjieba" else min(3, chosen.repeat)
            alone[segmenter] = one_core(one, folder, chosen.vocab, segmenter, repeat)
        if chosen.megabytes:
            big = folder / "big.jsonl"
            write_varied(big, texts, chosen.megabytes * 1_000_000)
            first = chosen.segmenters[0]
            both = two_processes(one, folder, chosen.vocab, first)
            two_cores(big, folder, chosen.vocab, first, alone[first], both)


def prepare_in_process(
    settings: CorpusSettings, folder: Path, vocab: Path, seed: int = 0
) -> Manifest:
    """Prepare a corpus in this process, the listing and hashing of its inputs included."""
    inputs = list_inputs(settings)
    return prepare.prepare(settings, folder, vocab, seed, inputs, Lines(), IN_PROCESS)


def compare(texts: list[str], folder: Path, vocab: Path, peer: Path | None) -> None:
    """Print the speed of public builders and ours, with jieba, on the same texts."""
    some = folder / "some.jsonl"
    with some.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    settings = CorpusSettings(inputs=(str(some),), segmenter="jieba")

    def ours(place: str) -> float:
        begun = time.process_time()
        made = prepare_in_process(settings, folder / place, vocab)
        return made.rows / (time.process_time() - begun)

    ours("cold")
    rates = {"transformers' collator, no pairs": prepare_peers.collator(texts, vocab)}
    if peer:
        rates[peer.name] = prepare_peers.checkout(texts, vocab, folder, peer.absolute())
    mine = ours("some")
    for name, rate in rates.items():
        print(f"{name}: {rate:,.0f} samples a CPU second; ours {mine:,.0f}, {mine / rate:.1f} x")


def one_core(source: Path, folder: Path, vocab: Path, segmenter: str, repeat: int) -> float:
    """Print the median speed in this process; returns samples a second by the clock."""
    settings = CorpusSettings(inputs=(str(source),), segmenter=segmenter)
    wall, cpu = [], []
    for turn in range(repeat + 1):
        begun, used = time.perf_counter(), time.process_time()
        manifest = prepare_in_process(settings, folder / f"{segmenter}{turn}", vocab, turn)
        if turn:  # turn 0 loads dictionaries
            wall.append(manifest.rows / (time.perf_counter() - begun))
            cpu.append(manifest.rows / (time.process_time() - used))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{segmenter}, one core: {statistics.median(wall):,.0f} samples/s by the clock, "
        f"{statistics.median(cpu):,.0f} by CPU time (best {max(cpu):,.0f}); peak {peak:,.0f} MB"
    )
    return statistics.median(wall)


def two_processes(source: Path, folder: Path, vocab: Path, segmenter: str) -> float:
    """Print and return the speed of two plain processes at once: all that two CPUs can give."""
    context = multiprocessing.get_context("spawn")
    start, rows = context.Barrier(2), context.Queue()
    jobs = [
        context.Process(
            target=in_process, args=(source, folder / f"p{i}", vocab, segmenter, start, rows)
        )
        for i in range(2)
    ]
    for job in jobs:
        job.start()
    rates = [rows.get() for _ in jobs]
    for job in jobs:
        job.join()
    wall, cpu = (sum(column) for column in zip(*rates, strict=True))
    print(
        f"{segmenter}, two processes at once: {wall:,.0f} samples/s by the clock, {cpu / 2:,.0f} "
        "by CPU second"
    )
    return wall


def in_process(source: Path, folder: Path, vocab: Path, segmenter: str, start, rows) -> None:
    """Prepare the source three times beside the other process, and report the mean speeds."""
    settings = CorpusSettings(inputs=(str(source),), segmenter=segmenter)

    def turn(number: int) -> int:
        place = folder / str(number)
        return prepare_in_process(settings, place, vocab).rows

    turn(0)
    start.wait()
    begun, used = time.perf_counter(), time.process_time()
    made = sum(turn(number) for number in (1, 2, 3))
    rows.put((made / (time.perf_counter() - begun), made / (time.process_time() - used)))


def two_cores(
    source: Path, folder: Path, vocab: Path, segmenter: str, alone: float, both: float
) -> None:
    """Print the speed with Ray Data on two CPUs, what used the CPUs, and the largest worker."""
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"BENCHMARK_TIMES": str(folder)}},
    )
    settings = CorpusSettings(inputs=(str(source),), segmenter=segmenter, workers=2)
    small = CorpusSettings(inputs=(str(folder / "one.jsonl"),), segmenter=segmenter, workers=2)
    warm = list_inputs(small)
    prepare.prepare(small, folder / "warm", vocab, 0, warm, Lines())
    prepare.make_shard = timed_shard
    finished = threading.Event()
    peak: dict[int, float] = {}
    workers = [process for name, process in processes() if name == "workers"]
    watcher = threading.Thread(target=watch, args=(workers, peak, finished))
    watcher.start()
    before, busy, begun = cpu_seconds(), busy_seconds(), time.perf_counter()
    inputs = list_inputs(settings)
    manifest = prepare.prepare(
        settings, folder / "big", vocab, 0, inputs, ConsoleProgress(Console())
    )
    seconds = time.perf_counter() - begun
    used = {name: spent - before[name] for name, spent in cpu_seconds().items()}
    used["other programs"] = busy_seconds() - busy - sum(used.values())
    finished.set()
    watcher.join()
    ray.shutdown()
    size, rate = source.stat().st_size / 1e6, manifest.rows / seconds
    print(
        f"{segmenter}, Ray Data on two CPUs, {size:,.0f} MB: {rate:,.0f} samples/s by the clock "
        f"({size / seconds:.1f} MB/s), {rate / 2 / alone:.0%} of twice one core, {rate / both:.0%} "
        f"of two processes; {manifest.rows / used['workers']:,.0f} by CPU second of the workers; "
        f"largest worker {max(peak.values()):,.0f} MB"
    )
    shares = {name: spent / seconds / 2 for name, spent in used.items()}
    shares["idle"] = 1 - sum(shares.values())
    print("of both CPUs: " + ", ".join(f"{name} {share:.1%}" for name, share in shares.items()))
    spans = [
        tuple(map(float, line.split())) for file in folder.glob("*.times") for line in file.open()
    ]
    first, last = min(begin for begin, _ in spans), max(end for _, end in spans)
    held = sum(end - begin for begin, end in spans)
    print(
        f"workers were busy with chunks {held / 2 / (last - first):.0%} of the time from the "
        f"first to the last, {held / 2 / seconds:.0%} of the whole run"
    )


def timed_shard(job: Job, chunk: Chunk) -> Result:
    """`make_shard`, which also writes down its times: they show how busy the workers are."""
    begun = time.time()
    result = make_shard(job, chunk)
    with Path(os.environ["BENCHMARK_TIMES"], f"{os.getpid()}.times").open("a") as file:
        file.write(f"{begun} {time.time()}\n")
    return result


def processes() -> Iterator[tuple[str, psutil.Process]]:
    """This process and all processes of the cluster, each with its kind."""
    me = psutil.Process()
    yield "driver", me
    for process in me.children(recursive=True):
        with contextlib.suppress(psutil.Error, IndexError):
            # Workers are idle or run a task; the names of Ray's own actors have a capital letter.
            command = process.cmdline()[0]
            worker = command.startswith(("ray::IDLE", "ray::FlatMap", "ray::to_results"))
            yield "workers" if worker else "Ray's processes", process


def cpu_seconds() -> dict[str, float]:
    """CPU seconds so far by kind of process."""
    seconds: dict[str, float] = collections.defaultdict(float)
    for name, process in processes():
        with contextlib.suppress(psutil.Error):
            seconds[name] += sum(process.cpu_times()[:2])
    return seconds


def busy_seconds() -> float:
    """CPU seconds of all programs on the machine so far."""
    times = psutil.cpu_times()
    return times.user + times.nice + times.system + times.irq + times.softirq


def watch(workers: list[psutil.Process], peak: dict[int, float], finished: threading.Event) -> None:
    """Record the largest private memory of each worker."""
    while not finished.wait(0.2):
        for process in workers:
            with contextlib.suppress(psutil.Error):
                memory = process.memory_info()
                held = (memory.rss - memory.shared) / 2**20
                peak[process.pid] = max(peak.get(process.pid, 0), held)


def read_texts(path: Path) -> list[str]:
    """The texts of the documents in a file."""
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
    """Write the texts until there are `least` bytes; each turn shuffles their paragraphs anew."""
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
