"""Settings that change between two commands of a run are shown, or refused."""

import pytest

from pipeline.errors import ConfigError
from pipeline.settings.config import Config
from pipeline.settings.reading.config_file import dump_yaml
from pipeline.training.checkpoints import files
from pipeline.training.resume import changed_settings
from tests.pipeline.training.checkpoints.test_files import make


@pytest.fixture
def checkpoint(tmp_path):
    path = make(tmp_path, 7)
    (path / files.CONFIG).write_text(dump_yaml(Config()), "utf-8")
    return path


def changed(checkpoint, finished=False, **groups):
    return changed_settings(Config.model_validate(groups), checkpoint, finished)


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


def test_a_field_that_the_size_has_anyway_is_no_change(checkpoint):
    same = {"size": "base", "num_attention_heads": 12, "intermediate_size": 3072}
    assert changed(checkpoint, finished=True, model=same) == []


def test_a_finished_run_accepts_only_what_no_weight_depends_on(checkpoint):
    assert changed(checkpoint, finished=True, engine={"attention": "eager"})
    with pytest.raises(ConfigError, match=r"(?s)optim\.lr.*a larger train\.steps goes on"):
        changed(checkpoint, finished=True, optim={"lr": 0.1})
