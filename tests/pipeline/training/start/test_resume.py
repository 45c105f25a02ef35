"""Settings that change between two commands of a run are shown, or refused."""

import pytest

from pipeline.errors import ConfigError
from pipeline.paths import RunPaths
from pipeline.settings.config import Config
from pipeline.settings.reading.config_file import dump_yaml
from pipeline.training.checkpoints import files
from pipeline.training.faults import events
from pipeline.training.start.resume import changed_settings, recover
from tests.pipeline.training.checkpoints.test_files import make


@pytest.fixture
def checkpoint(tmp_path):
    return make(tmp_path, 7)


def changed(checkpoint, **groups):
    return changed_settings(Config.model_validate(groups), checkpoint)


@pytest.fixture
def last(tmp_path):
    """The checkpoint after the last step."""
    return make(tmp_path, Config().train.steps)


def test_what_may_change_is_shown(checkpoint):
    assert changed(checkpoint) == []
    lines = changed(
        checkpoint,
        optim={"lr": 0.1},
        engine={"attention": "eager", "zero_stage": 2},
        scaling={"workers": 3},
        corpus={"sequence_length": 64, "lowercase": False},
        train={"log_every": 1, "eval_every": 9},
        tracking={"experiment": "other"},
    )
    assert {line.split(":")[0] for line in lines} == {
        *("optim.lr", "engine.attention", "engine.zero_stage", "scaling.workers"),
        *("corpus.sequence_length", "corpus.lowercase"),
    }
    assert "engine.zero_stage: 1 → 2" in lines


def test_another_network_is_refused_by_name(checkpoint):
    with pytest.raises(ConfigError, match=r"model\.num_attention_heads: None → 4"):
        changed(checkpoint, model={"num_attention_heads": 4})


def test_a_field_that_the_size_has_anyway_is_no_change(last):
    same = {"size": "base", "num_attention_heads": 12, "intermediate_size": 3072}
    assert changed(last, model=same) == []


def test_a_finished_run_accepts_only_what_no_weight_depends_on(last):
    assert changed(last, engine={"attention": "eager"})
    with pytest.raises(ConfigError, match=r"(?s)optim\.lr.*a larger train\.steps goes on"):
        changed(last, optim={"lr": 0.1})


def test_a_run_that_has_begun_takes_no_other_start(checkpoint, tmp_path):
    given = {"init_from": str(tmp_path / "other"), "init_state": "full"}
    with pytest.raises(ConfigError, match=r"(?s)init_from:  → .*/other.*init_state: weights → f"):
        changed(checkpoint, train=given)
    (tmp_path / "own").mkdir()
    begun = Config.model_validate({"train": {"init_from": str(tmp_path / "own")}})
    (checkpoint / files.CONFIG).write_text(dump_yaml(begun), "utf-8")
    assert changed(checkpoint) == changed(checkpoint, train=begun.train) == []
    with pytest.raises(ConfigError, match=r"init_from: .*/own → .*/other"):
        changed(checkpoint, train=given)
    (tmp_path / "own").rename(tmp_path / "moved")
    assert changed(checkpoint, train={"init_from": str(tmp_path / "moved")}) == []


def test_shards_that_were_moved_are_no_change(last):
    assert changed(last, train={"shards": ["moved"], "eval_shards": "moved"}) == []


def test_a_damaged_checkpoint_is_told_and_recorded(tmp_path):
    config = Config.model_validate({"run": {"storage": str(tmp_path), "name": "damaged"}})
    paths, said = RunPaths.of(config), []
    paths.checkpoints.mkdir(parents=True)
    older, newer = (make(paths.checkpoints, step) for step in (1, 2))
    (newer / files.STATE).write_text("{")
    assert recover(config, said.append) == older
    assert "kept as damaged_checkpoint_000002" in said[0]
    assert [(e["kind"], e["text"]) for e in events.read(paths.run)] == [("damaged", said[0])]
