"""The command line of compare; `pipeline/comparing/compare.py` has tests of its own."""

import pytest

from jobs import ablate, compare
from jobs.command import main
from pipeline.comparing.comparison import Comparison, Row, Subject
from pipeline.settings.reading.config_file import load_config
from pipeline.stages.ablation_table import Row as Variant


def test_names_and_short_options_become_settings(tmp_path):
    words = [
        "/a",
        "/d/lr=1e-4/it's \\ 中",
        "random",
        "--config",
        "suite.yaml",
        "--seeds",
        "2",
        "run.name=x",
    ]
    words += ["--train-limit", "9", "--run", "r", "--tasks", "t 1.yaml", "u.yaml"]
    kept = compare.overrides([*words, "scaling.workers=2", "--dry-run"])
    assert kept[:5] == ["--config", "suite.yaml", "run.name=x", "--dry-run", "scaling.workers=2"]
    chosen = load_config(None, [word for word in kept[2:] if word != "--dry-run"])
    assert chosen.compare.checkpoints == ("/a", "/d/lr=1e-4/it's \\ 中", "random")
    assert chosen.compare.tasks == ("t 1.yaml", "u.yaml")
    assert (chosen.compare.seeds, chosen.compare.train_limit, chosen.compare.run) == (2, 9, "r")


def test_a_dry_run_says_what_would_be_compared(tmp_path, capsys):
    suite = "jobs/configs/suites/chinese.yaml"
    words = ["export", "random", "--config", suite, "--dry-run", f"run.storage={tmp_path}"]
    assert main(compare.VERB, compare.overrides(words)) == 0
    shown = capsys.readouterr().out
    tasks = "chnsenticorp", "lcqmc", "afqmc", "ocnli", "peoples_daily_ner", "cmrc2018", "c3"
    assert all(task in shown for task in tasks)
    assert "84 (3 seeds)" in shown  # two rates
    assert not list(tmp_path.iterdir())
    words += ["--tasks", "c3", "ocnli", "compare.seeds=1"]
    assert main(compare.VERB, compare.overrides(words)) == 0
    shown = capsys.readouterr().out
    assert "8 (1 seeds)" in shown
    assert "afqmc" not in shown.split("Dry run")[1]
    assert main(compare.VERB, compare.overrides([*words, "--tasks", "xnli"])) == 2
    assert "xnli is no recipe file, and no task of the suite, which has chnsenti" in (
        " ".join(capsys.readouterr().err.split())
    )
    assert main(compare.VERB, ["--dry-run"]) == 2
    assert "name recipe files" in capsys.readouterr().err


@pytest.mark.parametrize(("reached", "status"), [({}, 2), ({"mlm_loss": 5.0, "seed": 1}, 0)])
def test_an_ablation_without_a_result_fails(reached, status, tmp_path, monkeypatch, capsys):
    row = Variant("lamb", [reached] * bool(reached), ["seed 2: it diverged"], [])
    monkeypatch.setattr(ablate.ablation, "run", lambda *_: [row])
    verb = ablate.VERB._replace(plan=lambda _: {})
    assert main(verb, [f"run.storage={tmp_path}"]) == status
    assert "lamb, seed 2: it diverged" in capsys.readouterr().out


def test_a_comparison_without_a_result_fails(tmp_path, monkeypatch, capsys):
    rows = [Row("t", "f1", {"train": 1, "dev": 1}, 0.5, "", {}, {})]
    published = {"layers": 2, "hidden": 128, "model": "", "source": "", "scores": {}}
    result = Comparison(
        [Subject("a", "", False, 2, 128)], rows, published, ["t a 0: memory ran out"], 0.0
    )
    monkeypatch.setattr(compare.compare, "run", lambda *_: (result, []))
    monkeypatch.setattr(compare.tracking, "start_run", lambda *_: "")
    monkeypatch.setattr(compare, "record", lambda *_: None)
    assert main(compare.VERB._replace(plan=lambda _: {}), [f"run.storage={tmp_path}"]) == 2
    assert "memory ran out" in capsys.readouterr().out
