import re
import typing
from importlib.util import find_spec
from pathlib import Path

import pytest
from pydantic import BaseModel

from pipeline.cluster import submission
from pipeline.corpus.planning import EXCLUDED_FROM_FINGERPRINT
from pipeline.errors import ConfigError
from pipeline.settings import deepspeed
from pipeline.settings.config import Config, flatten
from pipeline.settings.reading.config_file import dump_yaml, load_config
from pipeline.settings.training import ModelSettings, OptimSettings
from pipeline.training.start import resume


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
        "wrong: a setting has the form a.b=c; a file of them is given with --config",
    ):
        assert part in message


def test_a_path_is_taken_as_it_is_written(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    for text, path in (
        ("/d/a #b[新]", "/d/a #b[新]"),
        ("'/d/a #b' # c", "/d/a #b"),
        ("~/a", "/home/somebody/a"),
        ("/d/~/a", "/d/~/a"),
        ("file:///d/a%20b", "/d/a%20b"),
        ("$HOME/a", "/home/somebody/a"),
        ("${HOME}/a", "/home/somebody/a"),
        ("/d/a$1", "/d/a$1"),
    ):
        assert load_config(None, [f"corpus.output={text}"]).corpus.output == path


def test_a_path_that_would_name_a_folder_by_accident_is_refused(monkeypatch):
    """`$SCRATCH/runs` and `s3:/bucket` became folders of these names in the working directory."""
    monkeypatch.delenv("SCRATCH", raising=False)
    for text, what in (
        ("$SCRATCH/runs", "names $SCRATCH"),
        ("/d/${SCRATCH}", "names ${SCRATCH}"),
        ("s3:/bucket/runs", "is no path; a URL has `://`"),
        ("", "must not be empty"),
    ):
        with pytest.raises(ConfigError, match=re.escape(f"run.storage: {what}")):
            load_config(None, [f"run.storage={text}"])
    assert load_config(None, ["predict.model=models:/a/1"]).predict.model == "models:/a/1"


def test_records_and_messages_hold_no_password():
    """Checkpoints, exports and MLflow's parameters had that of `tracking.uri`."""
    for uri in ("http://me:s3cret@mlflow:5000", "postgresql+psycopg2://me:s3cret@db/mlflow"):
        config = load_config(None, [f"tracking.uri={uri}"])
        assert config.tracking.uri == uri
        shown = uri.replace(":s3cret", "")
        assert f"uri: {shown}\n" in dump_yaml(config)
        assert config.model_dump(mode="json")["tracking"]["uri"] == shown
        assert str(ConfigError(f"{uri} and {uri}: no answer")) == f"{shown} and {shown}: no answer"
    for plain in ("s3://b/a@1:2", "http://h:5000/a@b", "sqlite:////a:b@c.db", "me@h: 5"):
        assert str(ConfigError(plain)) == plain


@pytest.mark.parametrize(
    "setting", ["run.storage={}", "corpus.inputs=['{}']", "train.shards=['{}']"]
)
def test_a_password_in_the_url_of_a_store_is_refused(setting):
    """The corpus, checkpoints and exports showed it to all who may read them."""
    with pytest.raises(ConfigError, match="has a password or key in it") as told:
        load_config(None, [setting.format("s3://me:s3cret@bucket/a")])
    assert "s3cret" not in str(told.value)
    assert load_config(None, ["corpus.inputs=['gs://anonymous@b/a:b']"]).corpus.inputs


def test_a_key_that_is_no_text_is_named(tmp_path):
    """It ended in a KeyError."""
    path = tmp_path / "c.yaml"
    for text, key in (("1: {steps: 5}", "1"), ("train: {2: 3}", "train.2")):
        path.write_text(text, "utf-8")
        with pytest.raises(ConfigError, match=f"{key}: no such setting"):
            load_config(path, [])


@pytest.mark.parametrize(
    "text", ["-", "007", "1e5", "1.10", "[a].jsonl", "{x}.jsonl", "*.jsonl", "@a", "/d/a: b", "yes"]
)
def test_an_argument_for_a_setting_that_is_text_needs_no_quotes(text):
    for given in (text, f"'{text}'"):
        config = load_config(None, [f"predict.input={given}", f"heads.a.data.dev={given}"])
        assert config.predict.input == text
        assert config.heads["a"].data.dev.endswith(f"/{text.removeprefix('/')}")
    assert load_config(None, ["train.init_from=/a", "train.init_from="]).train.init_from == ""


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
        ("optim.lr: 0.1\n", r"optim\.lr: no such setting; .* `optim: \{lr: …\}`"),
        ("base: $NOT_SET/base.yaml\n", r"base: .* names \$NOT_SET, and there is no such"),
    ],
)
def test_a_file_that_is_no_configuration_is_named(tmp_path, text, part):
    path = tmp_path / "c.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=part) as raised:
        load_config(path)
    assert "c.yaml" in str(raised.value)


def test_a_file_in_another_encoding_is_named(tmp_path):
    (tmp_path / "c.yaml").write_bytes("# 设置\n".encode("gbk"))
    with pytest.raises(ConfigError, match=r"c\.yaml: this file is not in UTF-8, save it so"):
        load_config(tmp_path / "c.yaml")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optim.lr=0", "must be a number above 0 (got 0)"),
        ("optim.lr=inf", "optim.lr: must be a number above 0 (got 'inf')"),
        ("train.nsp_weight=.inf", "train.nsp_weight: must be a number of at least 0 (got inf)"),
        ("faults.hang_seconds=1e20", "faults.hang_seconds: must be a number above 0 and at most"),
        ("model.hidden_dropout_prob=1", "must be a number of at least 0 and below 1 (got 1)"),
        (
            "train={first_batch: 8, batch_warmup: 1000}",
            "train.batch_warmup=1000 must be below train.steps=1000",
        ),
        ("optim={warmup: 10, decay: 995}", "optim.warmup=10 and optim.decay=995 are together"),
        ("optim={warmup: 0.2, decay: 0.9}", "optim.warmup=0.2 and optim.decay=0.9 are together"),
        ("engine.deepspeed={aio: {}}", "engine.deepspeed.aio: not allowed; it would have no"),
        ("optim.betas=[0.9, 1.5]", "optim.betas.1: must be a number of at least 0 and below 1"),
        ("finetune.search.batch=[8, 0]", "batch.1: must be a whole number of at least 1 (got 0)"),
        ("train.steps=yes", "whole number of at least 1 (got True); YAML reads yes"),
        ("train.eval_every=2.5", "must be a whole number of at least 1 (got 2.5)"),
        ("corpus.sequence_length=8", "a whole number of at least 16 and at most 65535"),
        ("corpus.inputs=5", "must be a list (got 5)"),
        ("corpus.lowercase=maybe", "must be true or false (got 'maybe')"),
        ("corpus={segmenter: 7}", "must be text (got 7); put it in quotes"),
        ("run.name=null", "run.name: must be text (got None)"),
        ("heads.a.task=nre", "span (got 'nre'); did you mean ner?"),
        ("engine.peak_tflops=much", "must be a number above 0 (got 'much')"),
        ("engine.zero_stage=0", "ZeRO stage 1 on one worker is the same as no ZeRO"),
        ("engine={zero_stage: 3, compile: true}", "engine.compile needs zero_stage 1 or 2"),
        ("scaling.gpus_per_worker=2", "must be 0 or 1 (got 2)"),
        ("run.name=..", "run.name: must consist of letters"),
        ("run.name=a/b", "run.name: must consist of letters"),
        ("tracking.alias=V2", "MLflow reserves these names"),
        ("tracking.alias=a b", "must consist of letters, digits, `_` and `-` (got 'a b')"),
        ("tracking.registered_model=a/b", "must be a name without `/`, `:`"),
        ("tracking={alias: a, registered_model: ''}", "tracking.alias=a has no effect"),
        ("tracking.experiment=''", "tracking.experiment: must not be empty"),
        ("heads={'a:b': {task: ner}}", "heads: the name 'a:b' must be the name of a folder"),
        ("heads={'': {task: ner}}", "heads: a head needs a name"),
        ("heads={1: {task: ner}}", "heads: the name 1 must be text: put it in quotes"),
        ("engine.deepspeed={1: 2}", "engine.deepspeed: the name 1 must be text"),
        ("finetune.data.columns={text: yes}", "text: must be text or a whole number (got True)"),
        ("finetune.data.columns={text: 1.5}", "text: must be text or a whole number (got 1.5)"),
        ("finetune.label_weights=[1]", "must be balanced or a group of settings (got [1])"),
        ("finetune.label_weights={a: 0}", "label_weights.a: must be a number above 0 (got 0)"),
        ("promote.version=0", "must be a whole number of at least 1 or text (got 0)"),
        ("optim.betas=0.9", "optim.betas: must be a list of 2 values (got 0.9)"),
        ("compare.checkpoints=[./a, a]", "must not name a checkpoint twice"),
        ("optim={lr: 1, lr: 2}", "lr stands there twice"),
        ("train.init_state=full", "train.init_state=full needs train.init_from"),
        ("train.keep_every=150", "train.keep_every=150 must be a multiple of train.checkpoint_"),
        ("train.steps=9 tokns", "must be a number of steps, or `N tokens` such as `2e9 tokens`"),
        ("train.steps=-5 tokens", "must be a number of steps, or `N tokens` such as `2e9 tokens`"),
        ("optim.warmup=some tokens", "must be a number of at least 0 (got 'some tokens')"),
        ("optim={decay: 0.1, schedule: constant}", "optim.decay=0.1 has no effect without another"),
        ("train.first_batch=8", "train.first_batch and train.batch_warmup need each other"),
        (
            "train={steps: 9, phases: [{after: 9, sequence_length: 512, global_batch: 8}]}",
            "each phase must begin after the one before it",
        ),
        (
            "train={first_batch: 8, batch_warmup: 5, global_batch: 8}",
            "train.first_batch must be smaller than train.global_batch",
        ),
        (
            "train={init_state: branch, init_from: checkpoint_000001}",
            "train.init_state=branch goes on at optim.lr",
        ),
        ("train={init_adapt: true, init_state: full, init_from: x}", "train.init_adapt needs"),
        ("corpus.masking.final_probability=0.1", "without corpus.masking.mode=dynamic"),
        (
            "corpus.dedup={exact_documents: true, bands: 9}",
            "corpus.dedup.bands=9 has no effect without",
        ),
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


@pytest.mark.parametrize("text", ["corpus.inputs=[a.txt]", "demo.enabled=true"])
def test_a_weight_of_pairs_needs_pairs(text):
    alone = [text, "corpus.pairs.task=none", "train.nsp_weight=0.5"]
    with pytest.raises(
        ConfigError, match=r"train\.nsp_weight=0\.5 has no effect without sentence pairs"
    ):
        load_config(None, alone)


def test_deepspeeds_keys_that_would_break_a_promise_are_refused():
    own = (
        "{optimizer: {type: Lamb}, zero_optimization: {stage: 3, legacy_stage1: true}, "
        "steps_per_prnt: 5, gradient_predivide_factor: 2.0}"
    )
    with pytest.raises(ConfigError) as raised:
        load_config(None, [f"engine.deepspeed={own}"])
    for part in (
        "5 wrong setting(s)",
        "engine.deepspeed.optimizer: not allowed; set optim.*",
        "engine.deepspeed.zero_optimization.stage: not allowed; set engine.zero_stage",
        "engine.deepspeed.zero_optimization.legacy_stage1: not allowed; ZeRO does not work with",
        "engine.deepspeed.gradient_predivide_factor: not allowed; ZeRO does not work with it",
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


def test_lengths_may_be_given_in_tokens():
    config = load_config(
        None,
        [
            "train={global_batch: 10, steps: 2_000_100 tokens, eval_every: 5 tokens, log_every: 7}",
            "corpus.sequence_length=100",
            "optim={warmup: 1e5 tokens, decay: 0.1}",
        ],
    )
    assert (config.train.steps, config.train.eval_every, config.train.log_every) == (2001, 1, 7)
    assert (config.optim.warmup, config.optim.decay) == (100, 0.1)
    default = load_config(None, ["train.steps=1e7 tokens"])
    assert default.train.steps == -(-(10**7) // (256 * 128))


def test_a_file_changes_the_settings_of_its_base(tmp_path):
    (tmp_path / "base.yaml").write_text("optim: {lr: 0.5, clip: 2}\nheads: {a: {task: ner}}\n")
    (tmp_path / "in").mkdir()
    changes = tmp_path / "in" / "changes.yaml"
    changes.write_text("base: ../base.yaml\noptim: {lr: 0.25}\nheads: {}\n")
    config = load_config(changes, ["optim.eps=0.1"])
    assert (config.optim.lr, config.optim.clip, config.optim.eps) == (0.25, 2, 0.1)
    assert config.heads == {}
    (tmp_path / "base.yaml").write_text("base: in/changes.yaml\n")
    with pytest.raises(ConfigError, match=r"base: in/changes\.yaml leads back to this file"):
        load_config(changes)


def test_numbers_are_those_of_yaml_1_2(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("train: {steps: 2e3}\n", "utf-8")
    assert load_config(path).train.steps == 2000
    own = "engine.deepspeed={zero_optimization: {reduce_bucket_size: 5e8}}"
    config = load_config(None, ["run.seed=010", "run.name=2026-01-02", own])
    assert (config.run.seed, config.run.name) == (10, "2026-01-02")
    assert config.engine.deepspeed["zero_optimization"]["reduce_bucket_size"] == 5e8
    for text in ("1e3", "010", "1:30", "2026-01-02", "0x1f", ".5", "yes"):
        path.write_text(dump_yaml(load_config(None, [f"tracking.parent='{text}'"])), "utf-8")
        assert load_config(path).tracking.parent == text


def test_a_key_that_stands_twice_is_refused_and_anchors_are_not(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("optim: {lr: 0.5}\ntrain: {steps: 5}\noptim: {clip: 2}\n", "utf-8")
    with pytest.raises(ConfigError, match=r"optim stands there twice(.|\n)*line 3"):
        load_config(path)
    path.write_text("heads: {a: &a {task: ner, lr: 1e-3}, b: {<<: *a, lr: 2e-3}}\n", "utf-8")
    assert load_config(path).heads["b"].lr == 2e-3


def test_a_group_adds_to_what_was_given_before_it(tmp_path):
    (tmp_path / "c.yaml").write_text("optim: {lr: 0.5, eps: 0.1}\nheads: {a: {task: ner}}\n")
    given = ["optim={clip: 2}", "corpus={dedup: {near_documents: true}}", "heads={b: {task: ner}}"]
    config = load_config(tmp_path / "c.yaml", ["corpus.dedup.bands=4", *given])
    assert (config.optim.lr, config.optim.eps, config.optim.clip) == (0.5, 0.1, 2)
    assert (config.corpus.dedup.bands, config.corpus.dedup.near_documents) == (4, True)
    assert list(config.heads) == ["b"]  # a single setting, whose value this is
    assert load_config(tmp_path / "c.yaml", ["optim={}"]).optim == OptimSettings()
    config = load_config(None, ["optim={clip: 2}", "optim.lr=0.5", "optim.lr=0.25"])
    assert (config.optim.lr, config.optim.clip) == (0.25, 2)


def test_the_home_folder_may_be_written_as_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    config = load_config(
        None,
        [
            "run.storage=~/runs",
            "corpus.inputs=[~/text]",
            "finetune.checkpoint=~/export",
            "compare={checkpoints: [~/export], run: ~/runs/a, tasks: [~/t.yaml]}",
            "predict={model: ~/head, input: ~/in, output: ~/out}",
            "train={init_from: ~/export, shards: [~/a, s3://b/c], shard_cache: ~/cache}",
        ],
    )
    assert "~" not in dump_yaml(config)
    assert config.run.storage == "/home/somebody/runs"


def test_a_missing_file_is_named():
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such configuration file"):
        load_config("nowhere.yaml")


def test_a_misspelt_name_in_a_head_is_found():
    with pytest.raises(ConfigError, match=r"did you mean heads\.ner\.epochs\?"):
        load_config(None, ["heads.ner.epoch=3"])


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("skip_bad=true", "finetune.skip_bad"),
        ("lr=1", "optim.lr or finetune.lr"),
        ("train.lr=1", "optim.lr or finetune.lr"),
        ("train.nothing=1", ""),
    ],
)
def test_a_setting_without_its_group_is_found(given, meant):
    with pytest.raises(ConfigError, match=f"did you mean {meant}" if meant else "its group has"):
        load_config(None, [given])


def test_lists_of_settings_name_settings():
    named = {*resume.HARMLESS, *resume.START, *submission.RELATIVE, *submission.NAMES}
    for name, inside in EXCLUDED_FROM_FINGERPRINT.items():
        named |= {f"corpus.{name}"} if inside is True else {f"corpus.{name}.{s}" for s in inside}
    assert named <= {key for key, _ in flatten(Config())}


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
