"""The README's commands run, in their order, on one folder; the long ones in a shortened form."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("python -m jobs.")
]
# What comes last wins: fewer steps and examples, a smaller network, a folder of the test's own.
SHORT = [
    "tracking.experiment=readme",
    "model={num_hidden_layers: 1, hidden_size: 64, num_attention_heads: 1}",
    "train={steps: 6, global_batch: 16, micro_batch: 8, eval_every: 3, checkpoint_every: 3}",
    "train.log_every=2",
    "train.eval_samples=64",
    "heads.ner={task: ner, epochs: 1, data: {examples: 64}}",
    "heads.sentiment={task: classification, epochs: 1, data: {examples: 64}}",
    "preview.measured=500",
]


@pytest.mark.long
@pytest.mark.ray
def test_commands_of_the_readme_run(tmp_path):
    assert len(COMMANDS) >= 8
    storage = tmp_path / "runs"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    for command in COMMANDS:
        words = shlex.split(command.replace("runs/", f"{storage}/"))[1:]
        settings = [f"run.storage={storage}", *SHORT]
        done = subprocess.run(
            [sys.executable, *words, *settings],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        if "--dry-run" in command:
            assert not storage.exists()
    assert (storage / "demo/summary.json").exists()
    assert (storage / "demo/entities.jsonl").read_text("utf-8").count("\n") > 100


def test_the_two_commands_are_targets():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for name in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{name}:", makefile, re.MULTILINE)


def test_settings_of_the_examples_parse(tmp_path):
    from pipeline.settings.reading.config_file import load_config

    for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)):
        path = tmp_path / f"{number}.yaml"
        path.write_text(block, "utf-8")
        assert load_config(path).corpus.inputs


def test_every_verb_and_every_kind_of_task_is_in_the_readme():
    from pipeline.cluster.submission import verbs_of
    from pipeline.finetuning.tasks import TASKS

    words = [*(f"jobs.{verb}" for verb in verbs_of(ROOT)), *(f"`{task}`" for task in TASKS)]
    assert [word for word in words if word not in README] == []


def test_the_tree_in_contributing_names_every_part_of_the_pipeline():
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    parts = (path for path in (ROOT / "pipeline").iterdir() if not path.name.startswith("_"))
    names = {f"{path.name}/" if path.is_dir() else path.name for path in parts}
    assert {name for name in names if f"\n  {name} " not in text} == set()
