"""Ablations, with the training loop in this process instead of Ray workers."""

import json
from pathlib import Path

import mlflow
import pytest

from pipeline.errors import ConfigError, NezhaError, TrainingError
from pipeline.feed.fingerprints import FingerprintError
from pipeline.feed.opening import training_folders
from pipeline.paths import RunPaths
from pipeline.settings.reading.config_file import dump_yaml, load_config, with_changes
from pipeline.stages import ablation, preparing, scoring
from pipeline.stages.ablation_table import summarize
from pipeline.tracking import runs as tracking
from pipeline.tracking.store import tracking_uri
from pipeline.training.checkpoints import files
from pipeline.training.launch import ray_train
from tests.corpora import write_corpus, write_vocabulary
from tests.pipeline.training.checkpoints.test_files import make
from tests.reported import Lines
from tests.small_run import settings

VARIANTS = {"lamb": {}, "adamw": {"optim.name": "adamw"}}
pytestmark = pytest.mark.usefixtures("in_this_process")


@pytest.fixture
def config(tmp_path, prepared_elsewhere):
    variants = f"ablate={{seeds: [5, 6], variants: {json.dumps(VARIANTS)}}}"
    return settings(tmp_path, "compared", *prepared_elsewhere, variants)


def test_runs_of_an_ablation_need_no_alias(config):
    """They are not registered; the ablation's settings may name one."""
    made = ablation.cells(with_changes(config, {"tracking.alias": "staging"}, ""))
    assert {cell.config.tracking.registered_model for cell in made} == {""}


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"model.num_attention_heads": 3}, "must be a multiple of num_attention_heads"),
        ({"train.global_batch": 1}, "leaves a worker without a sample"),
        ({"train.init_from": "/absent"}, "/absent: no such folder"),
    ],
)
def test_a_variant_that_cannot_be_trained_is_refused_before_the_corpus(config, changes, part):
    """The last variant was looked at when the corpora of all had been prepared."""
    variants = {"ablate.variants": {"a": {}, "b": changes}}
    workers = {"scaling.workers": 2}
    with pytest.raises(NezhaError, match=part):
        ablation.run(with_changes(config, variants | workers, ""), Lines())
    assert not (RunPaths.of(config).run / "corpora").exists()


@pytest.mark.long
def test_an_ablation_goes_on_where_it_was_stopped_and_compares_by_seed(config, monkeypatch):
    fit, trained = ray_train.fit, []

    def stopped_once(config, *given):
        trained.append(config.run.name)
        if len(trained) == 3:
            raise KeyboardInterrupt
        return fit(config, *given)

    monkeypatch.setattr(ray_train, "fit", stopped_once)
    with pytest.raises(KeyboardInterrupt):
        ablation.run(config, Lines())
    table = RunPaths.of(config).run / "ablation.md"
    assert "\n\nRuns still to end: 2. The same command goes on" in table.read_text("utf-8")
    rows = ablation.run(config, Lines())
    assert trained == ["lamb-5", "adamw-5", "lamb-6", "lamb-6", "adamw-6"]
    assert [[scores["seed"] for scores in row.runs] for row in rows] == [[5, 6], [5, 6]]

    reference, other = summarize(rows)
    assert "difference" not in reference
    losses = [[scores["mlm_loss"] for scores in row.runs] for row in rows]
    mean = sum(b - a for a, b in zip(*losses, strict=True)) / 2
    assert other["difference"].startswith(f"{mean:+.3f} ± ")
    assert table.read_text("utf-8").endswith(f" {other['difference']} |\n")

    client = mlflow.MlflowClient(tracking_uri(config))
    parent = client.get_run(tracking.noted_run(RunPaths.of(config).run))
    nested = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    )
    assert sorted(run.info.run_name for run in nested) == ["adamw-5", "adamw-6", "lamb-5", "lamb-6"]
    changed = with_changes(config, {"optim.lr": 0.5}, "")
    with pytest.raises(ConfigError, match=r"other settings:\n  lamb-5: optim\.lr"):
        ablation.run(changed, Lines())


def test_a_run_that_was_begun_with_other_settings_is_refused(config):
    """It went on with the new ones, and its row stood for a training that nobody can repeat."""
    own = next(cell.config for cell in ablation.cells(config) if cell.variant == "adamw")
    RunPaths.of(own).checkpoints.mkdir(parents=True)
    begun = make(RunPaths.of(own).checkpoints, 2)
    begun.joinpath(files.CONFIG).write_text(dump_yaml(own), "utf-8")
    ablation.check(with_changes(config, {"train.micro_batch": 1, "train.log_every": 3}, ""))
    for key, value in (("optim.lr", 0.5), ("train.steps", 99)):
        with pytest.raises(ConfigError, match=rf"other settings:\n  adamw-5: {key}: .* → {value}"):
            ablation.check(with_changes(config, {key: value}, ""))


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt, "KILLED"), (ConfigError, "FAILED")]
)
def test_an_ablation_that_ends_early_does_not_look_as_if_it_ran(config, monkeypatch, error, status):
    def fail(*_):
        raise error

    monkeypatch.setattr(ray_train, "fit", fail)
    with pytest.raises(error):
        ablation.run(config, Lines())
    client = mlflow.MlflowClient(tracking_uri(config))
    parent = client.get_run(tracking.noted_run(RunPaths.of(config).run))
    assert parent.info.status == status


@pytest.mark.long
def test_a_run_that_fails_is_told_and_the_others_go_on(config, monkeypatch):
    fit = ray_train.fit

    def failing(config, *given):
        if config.run.name == "adamw-5":
            raise TrainingError("it diverged")
        return fit(config, *given)

    monkeypatch.setattr(ray_train, "fit", failing)
    lamb, adamw = ablation.run(config, Lines())
    assert (len(lamb.runs), len(adamw.runs)) == (2, 1)
    assert adamw.failed == ["seed 5: it diverged"]
    assert summarize([lamb, adamw])[1]["failed"] == "1"
    table = (RunPaths.of(config).run / "ablation.md").read_text("utf-8")
    assert table.endswith("|\n\nadamw, seed 5: it diverged\n")


def test_variants_with_the_same_corpus_share_it():
    variants = {
        "words": {},
        "characters": {"corpus.masking.whole_words": False},
        "static": {"corpus.masking.mode": "static"},
        "alone": {"corpus.pairs.task": "none"},
        "adamw": {"optim.name": "adamw"},
        "phases": {"train.phases": [{"after": 5, "sequence_length": 256, "global_batch": 8}]},
        "later": {"train.phases": [{"after": 9, "sequence_length": 256, "global_batch": 4}]},
    }
    config = load_config(
        None,
        [
            "demo.enabled=true",
            "corpus.output=/elsewhere",
            "corpus.masking.mode=dynamic",
            f"ablate={{seeds: [1], variants: {json.dumps(variants)}}}",
        ],
    )
    cells = {cell.variant: cell.config for cell in ablation.cells(config)}
    places = {name: cell.train.shards[0].split("/")[-2] for name, cell in cells.items()}
    assert places == {name: name for name in ("words", "static", "alone", "phases")} | {
        "characters": "words",
        "adamw": "words",
        "later": "phases",
    }
    for name in ("phases", "later"):
        (phase,) = cells[name].train.phases
        assert phase.shards == (f"{cells[name].train.shards[0]}-256",)
    assert {cell.train.eval_shards.split("/")[-2] for cell in cells.values()} == {"words"}


def test_what_the_variants_read_is_what_is_made(tmp_path, monkeypatch):
    for name in ("inputs", "heldout"):
        (tmp_path / f"{name}.txt").write_text("天" * 50, "utf-8")
    phase = "{after: 5, sequence_length: 256, global_batch: 8}"
    variants = f"{{a: {{}}, b: {{train.phases: [{phase}]}}, c: {{corpus.pairs.task: none}}}}"
    given = [f"corpus.{name}=[{tmp_path}/{name}.txt]" for name in ("inputs", "heldout")]
    given += [f"run.storage={tmp_path}", "corpus.output=/elsewhere", f"ablate.variants={variants}"]
    config, made = load_config(None, [*given, "ablate.seeds=[1]"]), []
    vocab = str(write_vocabulary(tmp_path / "vocab.txt"))
    monkeypatch.setattr(preparing, "make_vocabulary", lambda *_: vocab)
    monkeypatch.setattr(preparing.prepare, "prepare", lambda *given, **_: made.append(given[1]))
    ablation._prepare(config, Lines())
    read = [folder for each in ablation.cells(config) for folder in training_folders(each.config)]
    assert {folder for folder in made if not folder.endswith("/heldout")} == set(read)
    assert len(set(read)) == 4


@pytest.mark.parametrize(
    ("key", "value"),
    [("corpus.inputs", "[other.txt]"), ("corpus.vocab_size", 70), ("train.shards", "[elsewhere]")],
)
def test_variants_with_other_texts_are_refused(key, value):
    """One corpus is made of the same inputs for all, so the variant would not get its own."""
    variants = f"ablate.variants={{a: {{}}, b: {{{key}: {value}}}}}"
    with pytest.raises(ConfigError, match=rf"ablate\.variants\.b: .* the same {key}"):
        ablation.cells(load_config(None, ["demo.enabled=true", variants]))


@pytest.mark.parametrize(
    ("variants", "part"),
    [
        ("{}", "name what to compare"),
        ("{a: {}}", "set corpus.heldout, or train.eval_shards"),
        ("{a: {optim.lr: 0}}", "optim.lr: must be a number above 0"),
        ("{a: {optim.rl: 1}}", "did you mean optim.lr?"),
        ("{a: {run.seed: 1}}", "all variants have the same run settings"),
        ("{a: {run: {seed: 1}}}", "all variants have the same run settings"),
        ("{'a b': {}}", "must consist of letters"),
    ],
)
def test_wrong_variants_are_refused(variants, part):
    with pytest.raises(ConfigError) as raised:
        ablation.cells(load_config(None, [f"ablate.variants={variants}"]))
    assert part in str(raised.value)


def test_variants_with_other_batches_have_as_many_tokens():
    """They had the steps of the first one, and so other numbers of tokens."""
    variants = "{a: {}, b: {train: {global_batch: 16}}, c: {train.steps: 49, optim: {eps: 0.1}}}"
    phase = "{after: 40960 tokens, sequence_length: 256, global_batch: 4}"
    given = ["train={steps: 51200 tokens, global_batch: 8}", "optim={lr: 0.5, warmup: 2048 tokens}"]
    more = ["train.eval_shards=held", f"train.phases=[{phase}]", "ablate.seeds=[1]"]
    config = load_config(None, [*given, *more, f"ablate.variants={variants}"])
    a, b, c = (cell.config for cell in ablation.cells(config))
    found = [
        (each.train.steps, each.optim.warmup, each.train.phases[0].after) for each in (a, b, c)
    ]
    assert found == [(50, 2, 40), (25, 1, 20), (49, 2, 40)]
    assert (c.optim.lr, c.optim.eps) == (0.5, 0.1)  # a group adds to the group


def test_scores_of_heads_without_a_test_set_stand_in_the_table(config, monkeypatch):
    """They were left out; the settings have a head `ner`, and the summary `ner_f1_on_dev`."""
    monkeypatch.setattr(scoring, "held_out_scores", lambda *_: {"mlm_loss": 5.0, "masked": 9.0})
    heads = {"ner_f1_on_dev": {"pretrained": 0.75, "scratch": 0.5}, "a_f1": {"pretrained": None}}
    found = ablation._scores(config, heads | {"seconds": {"heads": 1.5}}, Lines())
    assert found == {"mlm_loss": 5.0, "ner_f1_on_dev": 0.75}


@pytest.mark.long
def test_finished_runs_are_held_against_the_settings_of_now(config):
    """Runs of other data, and scores of other held-out samples, stood in the table in silence."""
    one = with_changes(config, {"ablate.seeds": [5], "ablate.variants": {"lamb": {}}}, "")
    (before,) = ablation.run(one, Lines())
    with pytest.raises(FingerprintError, match="masking: was static"):
        ablation.run(with_changes(one, {"corpus.masking.mode": "dynamic"}, ""), Lines())
    other = RunPaths.of(config).run / "other"
    write_corpus(other, Path(config.corpus.vocab), documents=6, seed=2)
    again = with_changes(one, {"train.eval_shards": str(other)}, "")
    (after,) = ablation.run(again, Lines())
    last = files.newest(RunPaths.of(ablation.cells(again)[0].config).checkpoints)
    assert after.runs[0]["mlm_loss"] == pytest.approx(scoring.score(again, last)["mlm_loss"])
    assert after.runs[0]["mlm_loss"] != before.runs[0]["mlm_loss"]
