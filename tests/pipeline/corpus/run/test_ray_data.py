"""A Ray cluster makes the same bytes with any number of workers, also if some are killed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
import ray
import zstandard

from pipeline.corpus import prepare
from pipeline.corpus.run import ray_data
from pipeline.corpus.run.inputs import list_inputs
from pipeline.corpus.run.passes import Executor
from pipeline.corpus.shards import format as shards
from pipeline.errors import CorpusError
from pipeline.settings.corpus import CorpusSettings
from tests.pipeline.cluster.own_disks import hide_the_disk
from tests.pipeline.corpus import raw
from tests.pipeline.corpus.preparing import IN_PROCESS, hashes
from tests.pipeline.corpus.raw import write_texts
from tests.reported import Lines, reported

pytestmark = [pytest.mark.ray, pytest.mark.slow]
DEDUP = {"exact_documents": True, "exact_paragraphs": True, "boilerplate_documents": 100}
SETTINGS = {"shard_megabytes": 0.2, "dedup": {**DEDUP, "memory_megabytes": 0.5}}
FOOT = "版权所有，转载请注明。"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder of plain and compressed files, its vocabulary, and the shards made without Ray."""
    folder = tmp_path_factory.mktemp("corpus")
    texts = [f"{text}\n{FOOT}" if n % 50 == 0 else text for n, text in enumerate(write_texts(9000))]
    raw.write(folder / "in" / "a.jsonl", raw.jsonl(texts[:4000]))
    raw.write(folder / "in" / "b.jsonl.gz", raw.jsonl(texts[3900:]))
    raw.write(folder / "in" / "c.txt", "\n\n".join(texts[:50]).encode())
    characters = sorted({character for text in texts for character in text if character > "\x7f"})
    vocab = folder / "vocab.txt"
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocab.write_text("\n".join([*specials, *characters]), "utf-8")
    make(folder, folder / "expected", IN_PROCESS)
    return folder


def make(folder, out, executor=prepare.ON_CLUSTER, workers=0, progress=None):
    settings = CorpusSettings(inputs=(str(folder / "in"),), workers=workers, **SETTINGS)
    inputs = list_inputs(settings)
    return prepare.prepare(
        settings, out, folder / "vocab.txt", 1, inputs, reported(progress), executor
    )


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_workers_makes_the_same_bytes(corpus, ray_cluster, tmp_path, workers):
    manifest = make(corpus, tmp_path / "out", workers=workers)
    assert hashes(tmp_path / "out") == hashes(corpus / "expected")
    assert manifest.drops == {"duplicate_document": 150, "boilerplate_line": 180}
    assert manifest.boilerplate == ((FOOT, 180),)
    assert len(manifest.shards) > 10


def test_workers_without_the_commands_disk_make_the_same_bytes(
    corpus, ray_cluster, tmp_path, monkeypatch
):
    hide_the_disk(monkeypatch, tmp_path / "node")
    manifest = make(corpus, tmp_path / "out")
    assert hashes(tmp_path / "out") == hashes(corpus / "expected")
    assert manifest.drops == {"duplicate_document": 150, "boilerplate_line": 180}
    assert {each.name for each in (tmp_path / "out").iterdir()} == {
        each.name for each in (corpus / "expected").iterdir()
    }
    assert not list((tmp_path / "node").rglob("*.arrow"))


def test_a_killed_worker_is_replaced(corpus, ray_cluster, tmp_path):
    killed = []
    finished = threading.Event()

    def kill():
        while not finished.is_set() and len(killed) < 2:
            for process in psutil.Process().children(recursive=True):
                if "to_results" in "".join(process.cmdline()) and len(killed) < 2:
                    process.kill()
                    killed.append(process.pid)
                    time.sleep(0.3)
            time.sleep(0.01)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        make(corpus, tmp_path / "out", workers=2)
    finally:
        finished.set()
        thread.join()
    assert killed
    assert hashes(tmp_path / "out") == hashes(corpus / "expected")


def test_a_rerun_goes_on_from_what_a_killed_driver_finished(corpus, ray_cluster, tmp_path):
    import ray

    out = tmp_path / "out"
    address = ray.get_runtime_context().gcs_address
    program = (
        "import sys; from pathlib import Path; from tests.pipeline.corpus.run.test_ray_data import "
        "make; make(Path(sys.argv[1]), Path(sys.argv[2]), workers=1)"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", program, str(corpus), str(out)],
        env={**os.environ, "RAY_ADDRESS": address},
    )
    try:
        wait_for(lambda: len(list((out / "_work").glob("*.json"))) >= 3, driver)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    # Tasks of the killed driver may end a moment later.
    time.sleep(1)
    assert not (out / "manifest.json").exists()
    kept = {
        (record["unit"], record["chunk"]): (out / record["shard"]["name"]).stat().st_mtime_ns
        for path in (out / "_work").glob("*.json")
        if (record := json.loads(path.read_text()))["chunk"] >= 0
    }
    lines = Lines()
    make(corpus, out, workers=2, progress=lines)
    assert any(f"{len(kept)} chunks are finished already" in line for line in lines)
    assert hashes(out) == hashes(corpus / "expected")
    for (unit, chunk), written in kept.items():
        assert (out / f"shard-{unit:06d}-{chunk:04d}.arrow").stat().st_mtime_ns == written


@pytest.mark.parametrize("damage", ["garbage", "vanished", "full disk"])
def test_a_fatal_error_stops_the_preparation_at_once_and_is_named(
    corpus, ray_cluster, tmp_path, damage
):
    folder, out = tmp_path / "bad", tmp_path / "out"
    raw.write(folder / "in" / "a.jsonl", raw.jsonl(write_texts(500)))
    raw.write(folder / "in" / "b.jsonl", b"{broken}\n" * 300_000)
    (folder / "vocab.txt").write_bytes((corpus / "vocab.txt").read_bytes())
    settings, message = {}, "unreadable or malformed"
    run, run_tasks = prepare.ON_CLUSTER
    if damage == "vanished":
        message = r"a\.jsonl: the file vanished"

        def run(job, units, workers):
            (folder / "in" / "a.jsonl").unlink()
            return prepare.ON_CLUSTER.run(job, units, workers)

    elif damage == "full disk":
        # /dev/full can be opened, but writing to it fails.
        settings, message = {"keep_rejected": "/dev/full"}, r"finished shards are kept"
    corpus_settings = CorpusSettings(
        inputs=(str(folder / "in"),), shard_megabytes=0.2, workers=2, **settings
    )
    inputs = list_inputs(corpus_settings)
    executor = Executor(run, run_tasks)
    begun = time.monotonic()
    with pytest.raises(CorpusError, match=message):
        prepare.prepare(corpus_settings, out, folder / "vocab.txt", 1, inputs, Lines(), executor)
    assert time.monotonic() - begun < 60
    assert not (out / "manifest.json").exists()


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the driver ended before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_chunks_of_one_compressed_file_go_to_all_workers(ray_cluster, corpus, tmp_path):
    texts = write_texts(6000, seed=3)
    folder = tmp_path / "one"
    raw.write(folder / "in" / "a.jsonl.zst", raw.jsonl(texts))
    (folder / "vocab.txt").write_bytes((corpus / "vocab.txt").read_bytes())
    assert (folder / "in" / "a.jsonl.zst").read_bytes()[:4] == zstandard.FRAME_HEADER
    make(folder, folder / "out", workers=2)
    make(folder, folder / "expected", IN_PROCESS)
    assert hashes(folder / "out") == hashes(folder / "expected")
    # Each shard was a task of its own, which any worker could take.
    assert len(shards.read_manifest(folder / "out").shards) >= 4


@pytest.mark.ray
def test_who_waits_for_the_first_node_is_told(ray_cluster, tmp_path, monkeypatch, caplog):
    assert ray_data.run_tasks_on_cluster(str(tmp_path), len, [("ab",)]) == [2]
    assert not caplog.messages
    monkeypatch.setattr(ray, "cluster_resources", dict)
    assert ray_data.run_tasks_on_cluster(str(tmp_path), len, [("ab",)]) == [2]
    assert "the cluster has no CPU now" in caplog.text
