"""A run on nodes with disks of their own, kept in an object store and on a real MLflow server."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest

from pipeline.files.storage import filesystem, read_whole
from pipeline.tracking.store import tracking_uri
from tests.cluster.test_local import ROOT, clean, local, processes_of
from tests.pipeline.corpus import raw
from tests.pipeline.object_store import bucket, object_store  # noqa: F401
from tests.pipeline.tracking.test_server import server  # noqa: F401

pytestmark = [pytest.mark.ray, pytest.mark.long]
if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
    pytestmark.append(pytest.mark.skip("this machine gives no process disks of its own (unshare)"))
STEPS = 600
RUN = [
    *("corpus.vocab_size=300", "corpus.sequence_length=32", "engine.zero_stage=1"),
    "model={hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 128}",
    f"train={{global_batch: 16, micro_batch: 8, precision: fp32, steps: {STEPS}}}",
    *("train.checkpoint_every=50", "train.log_every=50", "train.eval_every=300"),
    *("scaling.workers=2", "scaling.cpus_per_worker=1", "optim.lr=0.001"),
]


@pytest.fixture
def cluster_folder():
    """Where a cluster may run, which is stopped at the end."""
    folder = Path("/tmp", f"nzd{time.time_ns() % 10**9}")
    yield folder
    local(folder, "stop")


def start(folder, nodes, hidden):
    sizes = "--nodes", str(nodes), "--cpus", "1"
    started = local(folder, "start", *sizes, "--hide", folder / "n0", hidden)
    assert started.returncode == 0, started.stderr
    (line,) = re.findall(r"export (.*)", started.stdout)
    return dict(each.split("=", 1) for each in line.split())


def submit(words, variables, log):
    command = [sys.executable, "-m", "jobs.submit", "pretrain", "--follow", *words]
    return subprocess.Popen(
        command, cwd=ROOT, env=clean() | variables, stdout=log, stderr=subprocess.STDOUT
    )


def checkpoints(url):
    """Complete checkpoints in the store."""
    system, inner = filesystem(f"{url}/checkpoints")
    system.invalidate_cache()
    if not system.exists(inner):
        return []
    return sorted(path.split("/")[-2] for path in system.find(inner) if path.endswith("COMPLETE"))


def wait_until(found, process, log):
    deadline = time.monotonic() + 400
    while not found():
        assert time.monotonic() < deadline, log.read_text()
        assert process.poll() is None, log.read_text()
        time.sleep(0.5)


def last_tensors(run):
    data = read_whole(f"{run}/checkpoints/checkpoint_{STEPS:06d}/hashes.json")
    return {k: v for k, v in json.loads(data).items() if k.endswith(".safetensors")}


def test_nodes_and_then_all_of_a_cluster_are_lost(
    tmp_path,
    cluster_folder,
    bucket,  # noqa: F811
    server,  # noqa: F811
):
    """The run ends on another cluster with the weights that one machine gives."""
    texts = [f"北京是中国的首都，今天是{n}日，天气很好。" * 8 for n in range(400)]
    raw.write(tmp_path / "in" / "a.jsonl", raw.jsonl(texts))
    raw.write(tmp_path / "held" / "b.jsonl", raw.jsonl([f"上海的天气{n}" * 9 for n in range(40)]))
    rows = [{"text": f"天气很{'好' if n % 2 else '坏'}{n}", "label": n % 2} for n in range(64)]
    at = tmp_path / "task.jsonl"
    at.write_text("\n".join(map(json.dumps, rows)))
    data = f"{{train: {at}, dev: {at}, test: {at}, length: 32}}"
    words = [
        *(f"corpus.inputs=[{tmp_path}/in]", f"corpus.heldout=[{tmp_path}/held]", *RUN),
        f"heads={{mood: {{task: classification, epochs: 1, lr: 0.001, data: {data}}}}}",
    ]
    shared = [f"run.storage={bucket}/runs", "run.name=apart"]
    url, uri = f"{bucket}/runs/apart", tracking_uri(server)
    first, second = tmp_path / "first.log", tmp_path / "second.log"

    variables = start(cluster_folder, 3, tmp_path)
    with first.open("w") as log:
        process = submit([*words, *shared, f"tracking.uri={uri}"], variables, log)
        wait_until(lambda: checkpoints(url), process, first)
        nodes = [
            number
            for number in (1, 2)
            if any(
                b"RayTrainWorker" in name for name in processes_of(cluster_folder / f"n{number}")
            )
        ]
        assert nodes, first.read_text()
        assert local(cluster_folder, "kill", "--node", str(nodes[0])).returncode == 0
        wait_until(lambda: "restart 1 of 3" in first.read_text(), process, first)
        before = checkpoints(url)
        wait_until(lambda: checkpoints(url) > before, process, first)
        # At once: while a cluster is asked to stop, a fast machine ends the training.
        local(cluster_folder, "kill", "--node", "0")
        local(cluster_folder, "stop")  # with the temporary folders of all nodes
        process.wait(60)
    assert int(checkpoints(url)[-1].rpartition("_")[2]) < STEPS, first.read_text()

    variables = start(cluster_folder, 2, tmp_path)
    with second.open("w") as log:
        process = submit([*words, *shared, f"tracking.uri={uri}"], variables, log)
        assert process.wait(500) == 0, second.read_text()
    assert re.search(r"going on from \S+checkpoint_000\d+", second.read_text())
    assert "up to date" in second.read_text()  # the shards

    whole = [f"run.storage={tmp_path}/runs", "run.name=whole", "heads={}"]
    command = [sys.executable, "-m", "jobs.pretrain", *words, *whole]
    subprocess.run(command, cwd=ROOT, env=clean(), check=True, capture_output=True)
    assert last_tensors(url) == last_tensors(tmp_path / "runs" / "whole")

    kept = {path.partition("/apart/")[2] for path in filesystem(url)[0].find(filesystem(url)[1])}
    assert {"export/model.safetensors", "heads/mood-pretrained/results.json", "report.html"} <= kept
    client = mlflow.MlflowClient(uri)
    (run,) = [
        run
        for experiment in client.search_experiments()
        for run in client.search_runs([experiment.experiment_id])
        if run.info.run_name == "apart"
    ]
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "train/mlm_loss")]
    assert sorted(steps) == list(range(50, STEPS + 1, 50))
