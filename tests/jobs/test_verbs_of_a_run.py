"""The verbs that make a run, look at it and use it, called as on the command line."""

import pytest

from jobs import (
    ablate,
    audit,
    evaluate,
    export,
    plan,
    pretrain,
    promote,
    report,
    runs,
    sample,
    torchrun,
)
from jobs.command import main
from pipeline.paths import RunPaths
from pipeline.settings.reading.config_file import dump_yaml
from pipeline.tracking import runs as tracking
from pipeline.training.faults import events
from tests.small_run import settings


@pytest.mark.slow
def test_the_verbs_of_a_run(tmp_path, capsys):
    config = settings(tmp_path, "run", "train.steps=6")
    file = tmp_path / "run.yaml"
    file.write_text(dump_yaml(config), "utf-8")
    given = ["--config", str(file)]
    tracking.note_run(RunPaths.of(config).run, tracking.start_run(config, "run", {}))
    for verb in (torchrun, audit, evaluate, report, export, sample):
        assert main(verb.VERB, given) == 0, capsys.readouterr().err
    storage = [f"run.storage={tmp_path}"]
    assert main(runs.VERB, storage) == 0
    assert main(promote.VERB, [*storage, "promote.version=1"]) == 0
    for verb in (pretrain, plan):
        assert main(verb.VERB, [*given, "--dry-run"]) == 0
    variants = "ablate.variants={a: {}, b: {optim.lr: 0.1}}"
    heldout = f"train.eval_shards={RunPaths.of(config).heldout}"
    assert main(ablate.VERB, [*given, variants, heldout, "--dry-run"]) == 0


def test_scores_without_held_out_text_are_refused_with_the_setting_that_names_it(tmp_path, capsys):
    assert main(evaluate.VERB, [f"run.storage={tmp_path}"]) == 2
    assert "set train.eval_shards to prepared ones, or corpus.heldout" in capsys.readouterr().err


def test_runs_are_listed_with_their_whole_names(tmp_path, capsys):
    assert main(runs.VERB, [f"run.storage={tmp_path}"]) == 0
    assert "no run has begun" in capsys.readouterr().out
    (tmp_path / ("長" * 60)).mkdir()
    (tmp_path / ("長" * 60) / events.FILE).touch()
    assert main(runs.VERB, [f"run.storage={tmp_path}"]) == 0
    assert capsys.readouterr().out.count("長") == 60
