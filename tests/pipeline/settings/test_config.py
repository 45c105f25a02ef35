import typing

import pytest
from pydantic import BaseModel

from pipeline.errors import ConfigError
from pipeline.settings.config import Config, ModelSettings
from pipeline.settings.config_file import dump_yaml, load_config


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
        "optim.name: Input should be 'lamb' or 'adamw'; did you mean lamb?",
        "train.steps: Input should be greater than or equal to 1 (got 0)",
        "min_workers and max_workers go together",
        "engine.zero_stage: Input should be 0, 1, 2 or 3",
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
    [("a: [", "not YAML"), ("- 1\n", "expected groups of settings"), ("run: 3\n", "run:")],
)
def test_a_file_that_is_no_configuration_is_named(tmp_path, text, part):
    path = tmp_path / "c.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=part) as raised:
        load_config(path)
    assert "c.yaml" in str(raised.value)


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
