"""A cluster whose autoscaler starts the nodes: Ray's own, with nodes that are processes here."""

import json
import secrets
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
from ray.autoscaler._private.monitor import BASE_READONLY_CONFIG

from cluster import local
from pipeline.paths import RunPaths
from pipeline.settings.reading.config_file import dump_yaml
from tests.cluster.test_local import RAY, ROOT, clean
from tests.small_run import settings

pytestmark = [pytest.mark.ray, pytest.mark.long]
PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"


def node_type(**resources):
    limits = {"min_workers": 0, "max_workers": 2}
    return {"resources": {**resources, "object_store_memory": 1 << 27}, "node_config": {}} | limits


@pytest.fixture
def variables(monkeypatch):
    """Those for processes that use a cluster, whose head has no CPU."""
    folder = Path("/tmp", f"nza{time.time_ns() % 10**9}")
    folder.mkdir(mode=0o700)
    (folder / local.TOKEN).write_text(secrets.token_hex(32))
    port, dashboard, client = local.free_ports(3)
    address = f"{ray.util.get_node_ip_address()}:{port}"
    head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    config = {
        "cluster_name": "local",
        "max_workers": 4,
        "idle_timeout_minutes": 10,
        "provider": {
            "type": "external",
            "module": PROVIDER,
            "gcs_address": address,
            "launch_multiple": True,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": {
            "ray.head.default": head,
            "cpu": node_type(CPU=1),
            "gpu": node_type(CPU=1, GPU=1),
        },
        "head_node_type": "ray.head.default",
    }
    (folder / "autoscaling.json").write_text(json.dumps(BASE_READONLY_CONFIG | config))
    monkeypatch.setenv("RAY_FAKE_CLUSTER", "1")
    monkeypatch.setenv("AUTOSCALER_UPDATE_INTERVAL_S", "1")
    role = [
        *("--head", f"--port={port}", "--dashboard-host=127.0.0.1"),
        *(f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"),
        f"--autoscaling-config={folder}/autoscaling.json",
    ]
    noted = {"address": address, "dashboard": f"http://127.0.0.1:{dashboard}", "pids": []}
    local.note(folder, noted)
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / local.TOKEN)}
    try:
        assert local.start_node(folder, 0, role)
        yield token | {"RAY_ADDRESS": address}
    finally:
        local.stop(folder)


def run(command, variables):
    done = subprocess.run(
        [*map(str, command)],
        cwd=ROOT,
        env=clean() | variables,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_nodes_start_for_a_training_and_for_a_fine_tuning(tmp_path, variables):
    scaling = "workers: 2, cpus_per_worker: 1, wait_seconds: 120"
    config = settings(tmp_path, "small", f"scaling={{{scaling}, gpus_per_worker: 0}}")
    file = RunPaths.of(config).run / "given.yaml"
    file.write_text(dump_yaml(config), "utf-8")
    run([sys.executable, "-m", "jobs.pretrain", "--config", file], variables)
    assert "gpu" not in run([RAY, "status"], variables)

    rows = [{"text": f"天气很{'好' if n % 2 else '坏'}", "label": n % 2} for n in range(32)]
    data = tmp_path / "task.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    command = [
        *(sys.executable, "-m", "jobs.finetune", "--config", file, "scaling.gpus_per_worker=1"),
        *("finetune.task=classification", "finetune.epochs=1", "finetune.data.length=32"),
        *(f"finetune.data.train={data}", f"finetune.data.dev={data}"),
    ]
    run(command, variables)
    assert "1 gpu" in run([RAY, "status"], variables)
