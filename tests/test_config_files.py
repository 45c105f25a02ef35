"""Every YAML file of the repository is accepted by what reads it."""

from pathlib import Path

import pytest

from pipeline.settings.reading.config_file import dump_yaml, load_config
from pipeline.stages import ablation
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
