"""Duplicates of a synthetic corpus: exact counts, speed and memory by stage, and the driver's time.

    python -m tests.benchmarks.dedup [--gigabytes 2] [--workers 2] [--memory 200] [--units 100000]

A corpus of random Chinese documents is written, in which 5 % of the documents are near duplicates
(a few characters are appended) and 2 % are equal to an earlier one; each is planted, so the counts
must be exact. Every document also holds a paragraph of a small set. The same is done with a tenth
of the size: memory should be the same. CPU seconds are those of the workers. The last table
extrapolates the measured CPU seconds to 1 TB on 100 machines of 16 cores; it is a model: it leaves
out waiting for disks and networks.

With `--units`, a folder with the records of so many units is made, and the driver's time to plan,
to notice that a corpus is up to date and to resume is measured.
"""

import argparse
import collections
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.corpus import prepare
from pipeline.corpus.dedup import grouping
from pipeline.corpus.dedup.signatures import sign
from pipeline.corpus.planning import plan
from pipeline.corpus.run import finished
from pipeline.corpus.run.inputs import list_inputs
from pipeline.corpus.run.names import chunk_name
from pipeline.corpus.run.output_folder import Claim, begin
from pipeline.corpus.run.tally import Result
from pipeline.corpus.run.work import Job, or_failure, results_of, sign_chunk
from pipeline.corpus.samples.vocabulary import SPECIALS
from pipeline.corpus.shards.format import Manifest, ShardInfo, write_manifest
from pipeline.corpus.text.sources import list_sources
from pipeline.corpus.text.units import Unit, plan_units
from pipeline.settings.corpus import CorpusSettings, DedupSettings

NEAR_SHARE, EQUAL_SHARE = 0.05, 0.02
CHARACTERS = 700
"""Of a document, about; Chinese Common Crawl has 600 to 900."""
CORES, TERABYTE = 1600, 1e6
"""Of the modelled cluster, and MB of the modelled corpus."""


def write_documents(folder: Path, megabytes: float) -> collections.Counter[str]:
    """Write JSONL files of 64 MB; returns how many documents of each kind there are."""
    random = np.random.default_rng(0)
    paragraphs = ["".join(map(chr, row)) for row in random.integers(0x4E00, 0x9FA5, (50, 40))]
    planted: collections.Counter[str] = collections.Counter()
    earlier: list[str] = []
    for number in range(max(1, round(megabytes / 64))):
        room = min(64.0, megabytes) * 1e6
        with (folder / f"part-{number:05}.jsonl").open("w", encoding="utf-8") as file:
            while room > 0:
                draw = random.random() if earlier else 1.0
                kind = "near" if draw < NEAR_SHARE else "equal"
                if draw < NEAR_SHARE + EQUAL_SHARE:
                    text = earlier[random.integers(len(earlier))]
                    text += "续完" * (kind == "near")
                else:
                    kind = "new"
                    size = random.integers(CHARACTERS // 2, CHARACTERS * 3 // 2)
                    text = (
                        random.integers(0x4E00, 0x9FA5, size)
                        .astype("<u4")
                        .tobytes()
                        .decode("utf-32-le")
                        + f"\n{paragraphs[random.integers(len(paragraphs))]}"
                    )
                    if len(earlier) < 2000:
                        earlier.append(text)
                    elif random.random() < 0.01:
                        earlier[random.integers(len(earlier))] = text
                planted[kind] += 1
                room -= file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n") * 2.97
    return planted


class Workers:
    """Processes that count their CPU seconds by function, and their largest memory."""

    def __init__(self, number: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(number, mp_context=context)
        self.seconds: collections.Counter[str] = collections.Counter()
        self.largest: collections.Counter[str] = collections.Counter()

    def run_tasks(
        self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]
    ) -> list[Any]:
        """See `partition.RunTasks`."""
        results = []
        for result, seconds, memory in self._pool.map(
            measured, [function] * len(arguments), arguments
        ):
            results.append(result)
            self.seconds[function.__name__] += seconds
            self.largest[function.__name__] = max(self.largest[function.__name__], memory)
        return results


def measured(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, float, float]:
    """The result, CPU seconds, and the MB that this process has held at most so far."""
    begun = time.process_time()
    result = function(*arguments)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return result, time.process_time() - begun, memory


def sign_unit(job: Job, unit: Unit) -> dict[str, tuple[int, int]]:
    """The first pass over a unit; returns the numbers of documents and lines in each chunk."""
    results = list(or_failure(job, unit, results_of))
    assert not any(result.error for result in results)
    return {
        chunk_name(*result.key): (result.counts["documents"], result.counts["lines"])
        for result in results
        if result.chunk >= 0
    }


def deduplicate(folder: Path, megabytes: float, workers: int, memory: float) -> dict[str, float]:
    """Find the duplicates of a corpus; returns figures. Raises if a planted one was missed."""
    (folder / "in").mkdir(parents=True)
    planted = write_documents(folder / "in", megabytes)
    dedup = DedupSettings(near_documents=True, exact_paragraphs=True, memory_megabytes=memory)
    settings = CorpusSettings(inputs=(str(folder / "in"),), dedup=dedup)
    units = plan_units(list_sources(settings.inputs, settings), settings)
    job = Job(settings, str(folder / "work"), "", "", 0, "f", {}, sign_chunk)
    pool, begun = Workers(workers), time.monotonic()
    signed = pool.run_tasks(sign_unit, [(job, unit) for unit in units])
    sizes = dict(sorted(size for found in signed for size in found.items()))
    report = folder / "work" / "duplicates.jsonl"
    counts = grouping.find_duplicates(job.folder, sizes, dedup, pool.run_tasks, 1)
    seconds = time.monotonic() - begun
    reasons = collections.Counter(json.loads(line)["reason"] for line in report.open())
    dropped = sum(reasons.values())
    print(f"  {sum(planted.values()):,} documents; planted {dict(planted)}")
    print(f"  dropped {dict(reasons)}; clusters {counts}; {len(units)} units, {seconds:.0f} s")
    if dropped != planted["near"] + planted["equal"]:
        raise SystemExit(f"{dropped} documents were dropped")
    stages = dict(pool.seconds)
    figures = {f"CPU s: {name}": value for name, value in stages.items()}
    figures |= {f"MB: {name}": value for name, value in pool.largest.items()}
    figures["MB: driver"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return figures


def sign_alone() -> float:
    """Million characters a second and core of signing, without reading and cleaning."""
    random = np.random.default_rng(0)
    texts = [
        row.astype("<u4").tobytes().decode("utf-32-le")
        for row in (random.integers(0x4E00, 0x9FA5, CHARACTERS) for _ in range(2000))
    ]
    settings = DedupSettings(near_documents=True)
    speeds = []
    for _ in range(3):
        begun = time.process_time()
        sign(texts, settings)
        speeds.append(sum(map(len, texts)) / (time.process_time() - begun) / 1e6)
    return max(speeds)


def many_units(folder: Path, units: int, files: int = 10_000) -> Iterator[tuple[str, float]]:
    """Seconds of the driver for many small files and units."""
    (folder / "many").mkdir()
    line = json.dumps({"text": "今天天气很好，我们去图书馆看书。" * 4}, ensure_ascii=False) + "\n"
    for number in range(files):
        (folder / "many" / f"{number:06}.jsonl").write_text(line * (units // files), "utf-8")
    vocab = folder / "vocab.txt"
    vocab.write_text("\n".join([*SPECIALS, *"今天气很好我们去图书馆看，。"]) + "\n", "utf-8")
    size = len(line.encode()) / 1e6
    settings = CorpusSettings(inputs=(str(folder / "many"),), shard_megabytes=size)
    begun = time.monotonic()
    inputs = list_inputs(settings)
    yield f"list and hash {files:,} files", time.monotonic() - begun
    begun = time.monotonic()
    planned = plan(settings, vocab, 0, inputs)
    count = len(planned.units)
    yield f"plan {count:,} units", time.monotonic() - begun
    out = folder / "out"
    begin(str(out), Claim(fingerprint=planned.fingerprint, units=count))
    infos = []
    for first in range(0, count, finished.GATHER // 2):
        last = min(count, first + finished.GATHER // 2)
        lines = []
        for number in range(first, last):
            name = f"shard-{number:06}-0000.arrow"
            (out / name).write_bytes(b"1")
            info = ShardInfo(name=name, rows=1, tokens=1, bytes=1, sha256="0" * 64)
            infos.append(info)
            both = (Result(chunk=0, shard=info), Result(chunks=1))
            lines += [
                each.model_copy(update={"unit": number, "fingerprint": planned.fingerprint})
                for each in both
            ]
        text = "".join(each.model_dump_json() + "\n" for each in lines)
        (out / "_work" / f"finished-{first}-{last - first}.jsonl").write_text(text)
    begun = time.monotonic()
    tally, _ = finished.resume(str(out), planned.fingerprint, "", ())
    assert not tally.unfinished(planned.units)
    yield f"resume {count:,} units", time.monotonic() - begun
    manifest = Manifest(
        shards=tuple(infos),
        vocab_sha256="v",
        vocab_size=5,
        special_ids={},
        sequence_length=64,
        masks="static",
        fingerprint=planned.fingerprint,
    )
    write_manifest(out, manifest)
    begun = time.monotonic()
    assert "up to date" in str(prepare.summary(planned, out)["state"])
    yield f"notice that {count:,} shards are up to date", time.monotonic() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--memory", type=float, default=200.0, help="dedup.memory_megabytes")
    parser.add_argument("--units", type=int, default=0)
    chosen = parser.parse_args()
    print(f"signing alone: {sign_alone():.1f} M characters/s and core")
    figures = []
    for megabytes in (chosen.gigabytes * 100, chosen.gigabytes * 1000):
        print(f"{megabytes:,.0f} MB:")
        with tempfile.TemporaryDirectory() as name:
            figures.append(deduplicate(Path(name), megabytes, chosen.workers, chosen.memory))
    print(f"{'':20}{'a tenth':>12}{'whole':>12}{'MB/s and core':>15}{'s at 1 TB, model':>18}")
    for what, value in figures[1].items():
        row = f"{what:20}{figures[0][what]:12,.1f}{value:12,.1f}"
        if what.startswith("CPU"):
            rate = chosen.gigabytes * 1000 / value
            row += f"{rate:15,.1f}{TERABYTE / rate / CORES:18,.1f}"
        print(row)
    if chosen.units:
        with tempfile.TemporaryDirectory() as name:
            for what, seconds in many_units(Path(name), chosen.units):
                print(f"{what}: {seconds:.1f} s")


if __name__ == "__main__":
    main()
