import re
import typing
from importlib.util import find_spec
from pathlib import Path

import pytest
from pydantic import BaseModel

from pipeline.errors import ConfigError
from pipeline.settings import deepspeed
from pipeline.settings.config import Config
from pipeline.settings.config_file import dump_yaml, load_config
from pipeline.settings.training import ModelSettings


def test_every_mistake_is_reported_at_once_with_key_values_and_nearest_name(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("corpus: {sequence_lenth: 128}\noptim: {name: lam}\n", "utf-8")
    with pytest.raises(ConfigError) as raised:
        load_config(
            path, ["train.steps=0", "scaling.min_workers=2", "engine.zero_stage=7", "wrong"]
        )
    message = str(raised.value)
    assert "6 wrong setting(s)" in message
    assert str(path) in message
    for part in (
        "corpus.sequence_lenth: no such setting; did you mean corpus.sequence_length?",
        "optim.name: must be lamb or adamw (got 'lam'); did you mean lamb?",
        "train.steps: must be a whole number of at least 1 (got 0)",
        "scaling.min_workers and scaling.max_workers need each other",
        "engine.zero_stage: must be 1, 2 or 3 (got 7)",
        "wrong: an override has the form a.b=c",
    ):
        assert part in message


def test_overrides_win_over_the_file_and_are_yaml(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("optim: {lr: 1.0e-4, betas: [0.9, 0.99]}\n", "utf-8")
    config = load_config(path, ["optim.lr=0.003", "corpus.inputs=[a.txt, b.txt]"])
    assert config.optim.lr == 0.003
    assert config.optim.betas == (0.9, 0.99)
    assert config.corpus.inputs == ("a.txt", "b.txt")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: [", "this is not YAML"),
        ("- 1\n", "must hold groups of settings, but holds a list"),
        ("run: 3\n", "run: must be a group of settings"),
    ],
)
def test_a_file_that_is_no_configuration_is_named(tmp_path, text, part):
    path = tmp_path / "c.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=part) as raised:
        load_config(path)
    assert "c.yaml" in str(raised.value)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optim.lr=0", "must be a number above 0 (got 0)"),
        ("optim.betas=[0.9, 1.5]", "optim.betas.1: must be a number of at least 0 and below 1"),
        ("finetune.search.batch=[8, 0]", "batch.1: must be a whole number of at least 1 (got 0)"),
        ("train.steps=yes", "whole number of at least 1 (got True); YAML reads yes"),
        ("train.eval_every=2.5", "must be a whole number of at least 1 (got 2.5)"),
        ("corpus.sequence_length=8", "a whole number of at least 16 and at most 65535"),
        ("corpus.inputs=5", "must be a list (got 5)"),
        ("corpus.lowercase=maybe", "must be true or false (got 'maybe')"),
        ("corpus.segmenter=7", "must be text (got 7); put it in quotes: '7'"),
        ("heads.a.task=nre", "span (got 'nre'); did you mean ner?"),
        ("engine.peak_tflops=much", "must be a number above 0 (got 'much')"),
        ("engine.zero_stage=0", "ZeRO stage 1 on one worker is the same as no ZeRO"),
        ("scaling.gpus_per_worker=2", "must be 0 or 1 (got 2)"),
        ("run.name=..", "run.name: must consist of letters"),
        ("run.name=a/b", "run.name: must consist of letters"),
        ("tracking.alias=V2", "MLflow reserves these names"),
        ("train.init_state=full", "train.init_state=full needs train.init_from"),
        ("train.keep_every=150", "train.keep_every=150 must be a multiple of train.checkpoint_"),
        ("optim.warmup=2000", "optim.warmup=2000 is longer than train.steps=1000"),
        ("heads.a.from_scratch=true", "heads.a.from_scratch: a head of a pretraining run"),
        (
            "scaling={workers: 2, min_workers: 1, max_workers: 3}",
            "scaling.workers fixes the number of workers",
        ),
    ],
)
def test_mistakes_are_in_plain_words(override, expected):
    with pytest.raises(ConfigError) as raised:
        load_config(None, [override])
    assert expected in str(raised.value)
    assert "1 wrong setting(s)" in str(raised.value)


def test_deepspeeds_keys_that_would_break_a_promise_are_refused():
    own = "{optimizer: {type: Lamb}, zero_optimization: {stage: 3}, steps_per_prnt: 5}"
    with pytest.raises(ConfigError) as raised:
        load_config(None, [f"engine.deepspeed={own}"])
    for part in (
        "3 wrong setting(s)",
        "engine.deepspeed.optimizer: not allowed; set optim.*",
        "engine.deepspeed.zero_optimization.stage: not allowed; set engine.zero_stage",
        "engine.deepspeed.steps_per_prnt: DeepSpeed has no such key; did you mean steps_per_print?",
    ):
        assert part in str(raised.value)


def test_the_keys_are_those_of_the_installed_deepspeed():
    """Otherwise a key would be accepted and ignored, or refused by an old name."""
    source = "".join(
        path.read_text("utf-8")
        for path in Path(next(iter(find_spec("deepspeed").submodule_search_locations))).rglob(
            "*.py"
        )
        if path.parent.name != "op_builder"
    )
    for name in (*deepspeed.TAKEN, *(part for key in deepspeed.REFUSED for part in key.split("."))):
        assert re.search(rf"[\"']{name}[\"']|\b{name}:", source), name


def test_a_missing_file_is_named():
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such configuration file"):
        load_config("nowhere.yaml")


def test_a_misspelt_name_in_a_head_is_found():
    with pytest.raises(ConfigError, match=r"did you mean heads\.ner\.epochs\?"):
        load_config(None, ["heads.ner.epoch=3"])


def test_settings_survive_a_round_trip(tmp_path):
    config = load_config(
        None, ["heads.a.task=ner", "scaling.min_workers=1", "scaling.max_workers=3"]
    )
    path = tmp_path / "c.yaml"
    path.write_text(dump_yaml(config), "utf-8")
    assert load_config(path) == config


def test_every_setting_has_a_help_text():
    def groups(settings: type[BaseModel]):
        yield settings
        for field in settings.model_fields.values():
            for inner in (field.annotation, *typing.get_args(field.annotation)):
                if isinstance(inner, type) and issubclass(inner, BaseModel):
                    yield from groups(inner)

    bare = [
        f"{group.__name__}.{name}"
        for group in groups(Config)
        if group is not ModelSettings  # its fields are NezhaConfig's, described there
        for name, field in group.model_fields.items()
        if not field.description and not _is_group(field.annotation)
    ]
    assert not bare


def _is_group(annotation) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def test_model_settings_are_fields_of_the_network_configuration():
    from model import NezhaConfig

    named = set(ModelSettings.model_fields) - {"size"}
    assert named <= set(vars(NezhaConfig()))
