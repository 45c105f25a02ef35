"""The files of `cluster/`, by their own schemas and against the code that they start."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.aws.config import _configure_from_network_interfaces
from ray.autoscaler._private.util import (
    fillout_defaults,
    hash_runtime_conf,
    prepare_config,
    validate_config,
)

from pipeline.cluster.submission import IN_IMAGE
from pipeline.settings.reading.config_file import load_config

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
RAY_UP = sorted(CLUSTER.glob("ray_up/*.yaml"))
KUBERNETES = sorted([*CLUSTER.glob("kuberay/*.yaml"), CLUSTER / "mlflow/kubernetes.yaml"])
KUBERAY = json.loads((Path(__file__).parent / "schemas/kuberay.json").read_text("utf-8"))
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines())
TOKEN = "/home/ray/.ray/auth_token"


def documents(path):
    return [each for each in yaml.safe_load_all(path.read_text("utf-8")) if each]


def ray_specs():
    """RayCluster specifications of the KubeRay files."""
    for path in CLUSTER.glob("kuberay/*.yaml"):
        for each in documents(path):
            if each["kind"] in ("RayJob", "RayCluster"):
                yield each["spec"].get("rayClusterSpec", each["spec"])


@pytest.mark.parametrize("path", RAY_UP, ids=lambda path: path.stem)
def test_ray_up(path, tmp_path, monkeypatch):
    config = yaml.safe_load(path.read_text("utf-8"))
    validate_config(fillout_defaults(prepare_config(config)))
    assert config["head_node_type"] in config["available_node_types"]
    starts = [config[name][-1] for name in ("head_start_ray_commands", "worker_start_ray_commands")]
    assert all("RAY_AUTH_MODE=token ray start" in line for line in starts)
    assert "--autoscaling-config" in starts[0]
    # The token that the nodes need comes with the files; without one, `ray up` ends at once.
    assert config["file_mounts"] == {TOKEN: "~/.ray/auth_token"}
    missing = {TOKEN: str(tmp_path / "auth_token")}
    with pytest.raises(OSError, match="auth_token"):
        hash_runtime_conf(missing, [], {}, generate_file_mounts_contents_hash=True)
    if config["provider"]["type"] != "local":
        kinds = config["available_node_types"]
        assert kinds["gpu"]["min_workers"] == 0 < kinds["gpu"]["max_workers"]
        assert any("/shared" in line for line in config["initialization_commands"])
    assert "--volume=/shared:/shared" in config["docker"]["run_options"]


def test_aws_gives_the_gpu_nodes_the_device_that_their_container_asks_for():
    """Docker starts no container whose device is missing; EC2 attaches EFA only at the start."""
    config = yaml.safe_load((CLUSTER / "ray_up/aws.yaml").read_text("utf-8"))
    kinds = config["available_node_types"]
    assert "--device=/dev/infiniband" in kinds["gpu"]["docker"]["worker_run_options"]
    cards = kinds["gpu"]["node_config"]["NetworkInterfaces"]
    assert [card["InterfaceType"] for card in cards] == ["efa"] * 4
    assert [card["NetworkCardIndex"] for card in cards] == [0, 1, 2, 3]
    resolved = _configure_from_network_interfaces(config)["available_node_types"]
    groups = [set(kind["node_config"]["SecurityGroupIds"]) for kind in resolved.values()]
    assert groups == [{"SECURITY_GROUP"}] * 3  # within which the head reaches all nodes


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.stem)
def test_kubernetes_objects(path):
    """Objects of Kubernetes and, inside those of KubeRay, the pods."""
    validate = pytest.importorskip("kubernetes_validate").validate
    for each in documents(path):
        if each["kind"] in ("RayJob", "RayCluster"):
            jsonschema.validate(each, KUBERAY)
            spec = each["spec"].get("rayClusterSpec", each["spec"])
            pods = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
            found = [{"kind": "PodTemplate", "template": group["template"]} for group in pods]
            objects = [{"apiVersion": "v1", "metadata": {"name": "p"}, **pod} for pod in found]
        elif each["apiVersion"].startswith("kueue"):
            continue  # its schemas are in no package
        else:
            objects = [each]
        for item in objects:
            validate(item, "1.34", strict=True)


def test_kuberay_asks_for_a_token_and_starts_nodes_when_they_are_needed():
    specs = list(ray_specs())
    assert len(specs) == 2
    for spec in specs:
        assert spec["authOptions"] == {"mode": "token"}
        assert spec["rayVersion"] == PINS["ray"]
        assert spec["enableInTreeAutoscaling"]
        groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
        assert all(group["minReplicas"] == 0 for group in groups.values())
        assert gpus_of(groups["gpu"]) > 0 == gpus_of(groups["cpu"])
        for group in (spec["headGroupSpec"], *groups.values()):
            (container,) = group["template"]["spec"]["containers"]
            assert "/shared" in [mount["mountPath"] for mount in container["volumeMounts"]]


def gpus_of(group):
    (container,) = group["template"]["spec"]["containers"]
    return container["resources"]["requests"].get("nvidia.com/gpu", 0)


def test_the_rayjob_asks_for_what_its_cluster_can_hold():
    (job,) = documents(CLUSTER / "kuberay/rayjob.yaml")
    assert job["spec"]["shutdownAfterJobFinishes"]
    assert job["spec"]["backoffLimit"] > 0 < job["spec"]["preRunningDeadlineSeconds"]
    words = job["spec"]["entrypoint"].split()
    assert words[:4] == ["python", "-m", "jobs.pretrain", "--config"]
    config = load_config(ROOT / words[4], words[5:])
    assert config.run.storage.startswith("/shared/")
    (gpu,) = [g for g in job["spec"]["rayClusterSpec"]["workerGroupSpecs"] if gpus_of(g)]
    assert config.scaling.gpus_per_worker == 1
    assert config.scaling.wait_seconds > 0
    assert config.scaling.workers <= gpu["maxReplicas"] * gpus_of(gpu)
    requests = gpu["template"]["spec"]["containers"][0]["resources"]["requests"]
    assert config.scaling.cpus_per_worker * gpus_of(gpu) <= int(requests["cpu"])


@pytest.mark.parametrize("path", sorted(CLUSTER.rglob("Dockerfile")), ids=lambda p: p.parent.name)
def test_dockerfiles(path):
    lines = path.read_text("utf-8").replace("\\\n", " ").splitlines()
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]]
    copied = [word for word in copied if not word.startswith("--")]
    assert copied
    assert all((ROOT / name).is_file() for name in copied)  # code comes with the job
    assert [line for line in lines if line.startswith("USER")] == ["USER 1000"]
    for name, version in re.findall(r"([a-z0-9-]+)(?:\[\w+\])?==([\d.]+)", "\n".join(lines)):
        assert PINS.get(name, version) == version
    if hadolint := shutil.which("hadolint", path=f"{ROOT}/.venv/bin:{os.environ['PATH']}"):
        subprocess.run([hadolint, path], check=True)


def test_the_image_of_the_nodes_has_what_a_job_does_not_bring():
    text = (CLUSTER / "Dockerfile").read_text("utf-8")
    assert f"FROM rayproject/ray:{PINS['ray']}-py311-${{DEVICE}}" in text
    assert f"torch=={PINS['torch']}" in text
    assert "RAY_AUTH_MODE=token" in text
    assert set(IN_IMAGE) <= PINS.keys()


STUBS = {
    "scontrol": 'if [ "$1" = show ]; then echo node7; echo node8; else echo "scontrol $*"; fi',
    "srun": 'while [ "${1#-}" != "$1" ]; do shift; done; exec "$@"',
    "hostname": "echo 10.0.0.7 172.17.0.1",
    "ray": 'echo "mode $RAY_AUTH_MODE: ray $*"; exit "${RESULT:-0}"',
}


def run_slurm(tmp_path, result, **stubs):
    """Run the batch script with stand-ins for the commands of Slurm and for Ray."""
    for name, text in (STUBS | stubs).items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text("0123")
    slurm = {"JOB_ID": "20042", "JOB_NODELIST": "node[7-8]", "JOB_NUM_NODES": "2"}
    slurm |= {"GPUS_PER_NODE": "a100:8", "CPUS_PER_TASK": "64"}
    environment = {f"SLURM_{name}": value for name, value in slurm.items()}
    environment |= {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    return subprocess.run(
        ["bash", CLUSTER / "slurm.sbatch", "jobs/configs/nezha_base.yaml", "run.storage=/shared"],
        env=environment | {"RESULT": result},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("result", ["0", "75", "2"])
def test_slurm_starts_ray_on_all_nodes_and_the_command_on_the_first(tmp_path, result):
    done = run_slurm(tmp_path, result)
    assert done.returncode == int(result), done.stderr
    line, *rest = done.stdout.splitlines()
    start, command = line.split(" -- ")
    assert start.startswith("mode token: ray symmetric-run --address 10.0.0.7:20042 --min-nodes 2")
    assert "--num-gpus=8" in start
    words = command.split()
    assert words[:5] == ["env", "RAY_ADDRESS=10.0.0.7:20042", "python", "-m", "jobs.pretrain"]
    config = load_config(ROOT / words[6], words[7:])
    assert (config.scaling.workers, config.scaling.gpus_per_worker) == (16, 1)
    assert rest == (["scontrol requeue 20042"] if result == "75" else [])


def test_slurm_gives_the_processes_of_a_node_all_its_cpus(tmp_path):
    """Slurm's srun takes --cpus-per-task from its own words alone."""
    done = run_slurm(tmp_path, "0", srun='echo "srun $*" >&2; ' + STUBS["srun"])
    (start,) = [line for line in done.stderr.splitlines() if "ray symmetric-run" in line]
    assert "--cpus-per-task=64" in start.split(" ray ")[0]


def test_slurm_queues_the_job_again_where_the_signal_finds_no_command(tmp_path):
    ray = 'kill -TERM "$PPID"; sleep 1; exit 75'
    done = run_slurm(tmp_path, "75", ray=ray, pkill="exit 1")
    assert (done.returncode, done.stdout) == (75, "scontrol requeue 20042\n")


def test_slurm_without_a_token_is_refused(tmp_path):
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(
        ["bash", CLUSTER / "slurm.sbatch", "jobs/configs/demo.yaml"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "make one with: ray get-auth-token --generate" in done.stderr


def test_compose():
    path = CLUSTER / "mlflow/compose.yaml"
    services = yaml.safe_load(path.read_text("utf-8"))["services"]
    server = services["mlflow"]
    command = server["command"][-1]
    assert "--app-name basic-auth" in command
    assert "--allowed-hosts" in command
    assert server["environment"]["MLFLOW_BACKEND_STORE_URI"].startswith("postgresql+psycopg2://")
    assert (path.parent / server["build"]["context"] / server["build"]["dockerfile"]).is_file()
    assert all(":" in service.get("image", "built:here") for service in services.values())
    found = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    if found.returncode:
        pytest.skip("docker compose is not installed")
    values = dict.fromkeys(("POSTGRES_PASSWORD", "ADMIN_PASSWORD", "FLASK_KEY", "S3_SECRET"), "x")
    subprocess.run(
        ["docker", "compose", "-f", path, "config", "--quiet"],
        env=os.environ | values | {"HOST": "h"},
        check=True,
    )
