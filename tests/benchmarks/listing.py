"""Listing the files of an object store: `python -m tests.benchmarks.listing --objects 1000`.

A real S3-compatible server on this machine has that many objects, a line of text each, in folders
of a hundred. `list_inputs` and pyarrow's own recursive listing take turns, in one process. The
figure is the median of the ratio of their times: 1.0 would be the cost of the listing alone, and
the rest is what each file's kind and size, duplicates and reasons to leave files out cost.
"""

import argparse
import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.fs

from pipeline.corpus.run.inputs import list_inputs
from pipeline.settings.corpus import CorpusSettings
from tests.pipeline.object_store import environment, make_bucket, serve

FOLDER = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--objects", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=5)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, serve(Path(folder)) as address:
        os.environ.update(environment(address))
        url = f"{make_bucket()}/text"
        _fill(url, chosen.objects)
        ours, theirs = [], []
        for _ in range(chosen.turns):
            begun = time.perf_counter()
            found = list_inputs(CorpusSettings(inputs=(f"{url}/",)), signed=False)
            ours.append(time.perf_counter() - begun)
            begun = time.perf_counter()
            system, root = pyarrow.fs.FileSystem.from_uri(url)
            infos = system.get_file_info(pyarrow.fs.FileSelector(root, recursive=True))
            theirs.append(time.perf_counter() - begun)
            assert len(found.sources) == chosen.objects == sum(each.is_file for each in infos)
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    print(f"{chosen.objects:,} objects, medians of {chosen.turns} turns")
    print(f"list_inputs {statistics.median(ours):.3f} s, pyarrow {statistics.median(theirs):.3f} s")
    print(f"ratio {ratio:.2f}")


def _fill(url: str, number: int) -> None:
    system, root = pyarrow.fs.FileSystem.from_uri(url)

    def write(index: int) -> None:
        with system.open_output_stream(f"{root}/{index // FOLDER}/{index}.txt") as file:
            file.write(f"第{index}篇文章。\n".encode())

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(write, range(number)))


if __name__ == "__main__":
    main()
