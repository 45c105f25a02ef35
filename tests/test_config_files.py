"""Every YAML file of the repository is accepted by what reads it."""

from pathlib import Path

import pytest
import yaml

from pipeline import ablation
from pipeline.settings.config_file import dump_yaml, load_config
from tests.benchmarks import gpu

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("path", sorted(ROOT.glob("jobs/configs/**/*.yaml")), ids=lambda p: p.name)
def test_settings_parse_and_survive_a_round_trip(path, tmp_path):
    config = load_config(path)
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_yaml(config), "utf-8")
    assert load_config(copy) == config


def test_ablations_can_be_planned():
    for path in sorted(ROOT.glob("jobs/configs/ablations/*.yaml")):
        config = load_config(path)
        cells = ablation.cells(config)
        assert len(cells) == 3 * len(config.ablate.variants)
        assert len({cell.config.train.eval_shards for cell in cells}) == 1
        assert len({str(cell.config.model_dump(exclude={"run"})) for cell in cells}) == len(
            config.ablate.variants
        )


def test_ray_up_names_its_parts():
    cluster = yaml.safe_load((ROOT / "cluster/ray-up.yaml").read_text("utf-8"))
    assert cluster["head_node_type"] in cluster["available_node_types"]
    assert all("RAY_AUTH_MODE=token" in cluster[key][-1] for key in cluster if "start_ray" in key)


def test_rayjob_runs_the_main_job_with_settings_that_parse():
    job = yaml.safe_load((ROOT / "cluster/rayjob.yaml").read_text("utf-8"))
    words = job["spec"]["entrypoint"].split()
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert words[:3] == ["python", "-m", "jobs.pretrain"]
    config = load_config(ROOT / words[words.index("--config") + 1], words[5:])
    workers = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    limits = workers["template"]["spec"]["containers"][0]["resources"]
    assert config.scaling.workers <= workers["maxReplicas"]
    assert config.scaling.cpus_per_worker <= int(limits["requests"]["cpu"])


def test_dockerfile_copies_what_exists_and_pins_ray():
    lines = (ROOT / "cluster/Dockerfile").read_text("utf-8").splitlines()
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[2:-1]]
    assert copied
    assert all(any(ROOT.glob(name)) for name in copied)
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    )
    base = next(line for line in lines if line.startswith("FROM"))
    assert f"rayproject/ray:{pins['ray']}-" in base


def test_files_that_are_measured_on_gpus_exist(tmp_path):
    """The command is for machines on which it cannot be tried before."""
    named = {
        word
        for command in gpu.commands(tmp_path).values()
        for word in [*command, command[1].replace(".", "/") + ".py"]
        if word.startswith("tests/") and word.endswith(".py")
    }
    assert set(gpu.KERNEL_TESTS) < named
    assert all((ROOT / name).exists() for name in named)
