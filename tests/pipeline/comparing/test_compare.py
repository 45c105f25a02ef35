"""Checkpoints over a suite, from names to a report."""

import json
from pathlib import Path

import pytest

from pipeline.comparing import compare
from pipeline.comparing.comparison import Judged, Subject
from pipeline.errors import CheckpointError, ConfigError, ExportError, TaskError
from pipeline.files.storage import write_whole
from pipeline.finetuning.examination import Examined
from pipeline.settings.reading.config_file import load_config
from pipeline.training.checkpoints import files as checkpoints
from tests.pipeline.comparing.given import config, task
from tests.reported import Lines


def test_checkpoints_are_judged_on_the_same_examples():
    def judged(name, examples):
        examined = Examined("", {}, [], {}, False, {"dev": examples, "test": "z"})
        return Judged("c3", Subject(name, "", False, 2, 64), examined, [])

    compare.check_examples([judged("a", "x"), judged("b", "x")])
    with pytest.raises(TaskError, match="c3: a and b would be judged on different examples"):
        compare.check_examples([judged("a", "x"), judged("b", "y")])


def test_what_cannot_be_compared_is_said_at_once(data, tmp_path):
    def told(*more, error=ConfigError):
        with pytest.raises(error) as raised:
            compare.plan(config(tmp_path, *more))
        return str(raised.value)

    good = f"heads.a={task(data)}"
    assert "name recipe files" in told("compare.checkpoints=[x]")
    assert "name what to compare" in told(good)
    assert "need a checkpoint beside them" in told(good, "compare.checkpoints=[random]")
    assert "heads.a.checkpoint, from_scratch" in told(good, "heads.a.checkpoint=x")
    assert "heads.a.data.dev: needed" in told(good, "heads.a.data.dev=''", "compare.seeds=1")
    assert "no complete checkpoint" in told(good, "compare.run=x", error=CheckpointError)
    assert "there is no" in told(good, f"compare.data={tmp_path}")
    with pytest.raises(ConfigError, match="twice"):
        config(tmp_path, "compare.checkpoints=[a, a]")


def test_a_run_is_found_in_its_storage(data, tmp_path, monkeypatch):
    """At a URL too, from which its files are copied."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    chosen = load_config(
        None,
        [
            f"run.storage=memory://{tmp_path.name}",
            "tracking.uri=http://mlflow:5000",
            "compare.run=nezha",
            f"heads.a={task(data)}",
        ],
    )
    name = f"nezha/checkpoints/checkpoint_000010/{checkpoints.COMPLETE}"
    write_whole(f"{chosen.run.storage}/{name}", b"")
    found = Path(compare.plan(chosen)["compare"])
    assert found.is_relative_to(tmp_path)
    assert (found / checkpoints.COMPLETE).exists()


@pytest.mark.long
@pytest.mark.ray
def test_a_comparison_finds_the_better_one_and_repeats_nothing(ray_cluster, export, data, tmp_path):
    """The reference has learnt the task before; random weights see ten examples."""
    from pipeline.settings.finetuning import FinetuneSettings
    from tests.pipeline.finetuning.in_process import finetune

    taught = {"task": "ner", "epochs": 3, "lr": 5e-3, "batch": 16, "data": data["ner"]}
    finetune(FinetuneSettings.model_validate(taught), str(export), tmp_path / "taught", 1)
    chosen = config(
        tmp_path,
        f"heads.names={task(data, batch=4)}",
        f"compare.checkpoints=[{tmp_path}/taught, random]",
        "compare.seeds=2",
        "compare.train_limit=10",
    )
    assert compare.plan(chosen)["trials"] == "4 (2 seeds)"
    lines = Lines()
    result, files = compare.run(chosen, lines)
    (row,) = result.rows
    assert [path.name for path in files] == [f"comparison.{end}" for end in ("md", "html", "json")]
    assert row.cells["taught"].score.mean > row.cells["random"].score.mean + 0.3
    assert row.cells["taught"].on == "test"
    found = row.differences["random"]
    assert (found.test, found.p < 0.01, found.low > 0.2) == ("bootstrap", True, True)
    assert (row.trivial, row.trivial_name) == (0.0, "no entity")
    text = files[0].read_text("utf-8")
    assert f"| names | f1 | 10 / 60 test | 0.0 (no entity) | {row.cells['taught'].score} |" in text
    assert "UER Tiny-WWM 2×128" in text
    assert "<td>names</td>" in files[1].read_text("utf-8")
    assert json.loads(files[2].read_text("utf-8"))["rows"][0]["cells"]["random"]["seeds"] == 2
    assert sum("epoch 1/1" in line for line in lines) == 4
    lines.clear()
    again, _ = compare.run(chosen, lines)
    assert again == result
    assert not any("epoch" in line for line in lines)
    with pytest.raises(ExportError, match=r"not a Hugging Face folder"):
        compare.run(
            config(tmp_path, f"heads.names={task(data)}", f"compare.checkpoints=[{tmp_path}]"),
            Lines(),
        )
