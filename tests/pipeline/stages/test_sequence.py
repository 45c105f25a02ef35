"""Stages, with the training loop in this process instead of Ray workers."""

import json
import shutil
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow.exceptions import MlflowException

from pipeline.corpus.run.inputs import Inputs
from pipeline.corpus.shards.format import read_manifest
from pipeline.corpus.shards.reader import ShardFolder
from pipeline.corpus.text.sources import Source
from pipeline.errors import ConfigError, ShardError, TrackingError, TrainingError
from pipeline.export.fill_masks import held_out_samples
from pipeline.feed.batches import heldout
from pipeline.feed.opening import training_folders
from pipeline.feed.unigram import unigram_loss
from pipeline.paths import RunPaths
from pipeline.settings.finetuning import FinetuneSettings, TaskData
from pipeline.settings.reading.config_file import with_changes
from pipeline.stages import exporting, heads, preparing, pretraining, scoring, sequence
from pipeline.stages.before import preflight
from pipeline.tracking.store import tracking_uri
from pipeline.training.launch import ray_train
from tests import small_run
from tests.pipeline.finetuning.in_process import finetune
from tests.reported import Lines
from tests.small_run import settings


def mlflow_run(config, run_id):
    return mlflow.MlflowClient(tracking_uri(config)).get_run(run_id)


def test_a_run_leaves_figures_and_pictures_in_mlflow(tmp_path, in_this_process):
    config = settings(tmp_path, "pictures", "train.steps=6")
    run_id = pretraining.pretrain(config, Lines())
    client = mlflow.MlflowClient(tracking_uri(config))
    files = {item.path for item in client.list_artifacts(run_id)}
    records = {"metrics.jsonl", "steps.jsonl", "report.html"}
    assert files == records | {"loss_curve.png", "trust_ratios.png"}
    run = mlflow_run(config, run_id)
    assert run.info.status == "FINISHED"
    data = {each.dataset.name: each.tags[0].value for each in run.inputs.dataset_inputs}
    assert data == {"shards": "train", "heldout": "heldout"}
    assert {
        "train/mlm_loss",
        "train/lr",
        "heldout/word_accuracy",
        "heldout/word_accuracy_2",
        "speed/tflops_per_worker",
        "time/communication",
        "lamb/trust_ratio/layer_01",
    } <= run.data.metrics.keys()


def test_a_finished_run_that_was_not_recorded_is_recorded_whole(
    tmp_path, in_this_process, monkeypatch
):
    config, recorded = settings(tmp_path, "unrecorded", "train.steps=2"), []
    monkeypatch.setattr(
        pretraining, "_record", lambda *given: recorded.append({path.name for path in given[2]})
    )
    for _ in range(2):
        pretraining.pretrain(config, Lines())
    assert recorded[0] == recorded[1] >= {"metrics.jsonl", "steps.jsonl", "report.html"}


def test_shards_and_held_out_shards_may_be_at_urls(tmp_path, in_this_process):
    """The run is the one whose shards lie on the disk."""
    urls = ("corpus.output=memory://b/shards/", "train.eval_shards=memory://b/heldout")
    urls += (f"train.shard_cache={tmp_path}/cache",)
    found = []
    for name, places in (("disk", ()), ("store", urls)):
        config = settings(tmp_path, name, *places)
        preflight.check_data(config)
        run_id, paths = pretraining.pretrain(config, Lines()), RunPaths.of(config)
        exporting.make_export(config, run_id, Lines().say)
        score = scoring.score(config, scoring.subject(config))
        shown = held_out_samples(paths.export, paths.heldout, 2, 8)
        found.append((small_run.losses(config), small_run.weights(config, 12), score, shown))
    assert found[0] == found[1]
    assert not {"shards", "heldout"} & {path.name for path in paths.run.iterdir()}


def test_a_run_without_held_out_text_has_a_summary(tmp_path, in_this_process):
    config = settings(tmp_path, "alone", "train.steps=2")
    shutil.rmtree(RunPaths.of(config).heldout)
    lines = Lines()
    run_id = pretraining.pretrain(config, lines)
    exporting.make_export(config, run_id, lines.say)
    told = "\n".join(lines)
    assert "no text is held out" in told
    assert "checkpoint_000002, which is the newest, as nothing is held out, to" in told
    assert "best held-out loss" not in told
    summary = sequence._pretraining_summary(config, run_id, Lines())
    assert summary["heldout_mlm_loss"] is None
    assert summary["unigram_loss"] is None
    assert summary["tokens_per_second"] > 0


def test_samples_of_another_length_are_told(tmp_path):
    """Steps in tokens are counted before shards are looked at."""
    config = settings(tmp_path, "length")
    length = read_manifest(RunPaths.of(config).shards).sequence_length
    same = with_changes(config, {"corpus.sequence_length": length}, "")
    assert pretraining._notes(same) == []
    (line,) = pretraining._notes(config)
    assert f"have up to {length} tokens, and corpus.sequence_length=128" in line


def test_each_phase_has_shards_of_its_length(tmp_path, monkeypatch):
    phases = "[{after: 2, sequence_length: 96, global_batch: 4}]"
    config = settings(tmp_path, "phases", f"train.phases={phases}", "corpus.keep_rejected=dropped")
    paths, corpus, made = RunPaths.of(config), config.corpus, []
    monkeypatch.setattr(preparing.prepare, "prepare", lambda *given, **_: made.append(given[:2]))
    preparing.make_shards(config, Inputs([], []), Lines())
    assert [(c.sequence_length, c.keep_rejected, folder) for c, folder in made] == [
        (corpus.sequence_length, corpus.keep_rejected, paths.shards),
        (96, "", f"{paths.run}/shards-96"),
    ]
    assert str(paths.run / "shards-96") in preflight.written_by(config)[0]


@pytest.mark.parametrize("own", [True, False])
def test_shards_that_training_does_not_read_are_not_made(tmp_path, monkeypatch, own):
    """`train.shards` names others. What is held out, and phases without shards, are made."""
    folder, made, lines = tmp_path / "run" / "shards", [], Lines()
    config = settings(
        tmp_path,
        "run",
        "corpus.inputs=[a.txt]",
        "corpus.heldout=[b.txt]",
        f"train.shards=[{f'{folder}@2,' * own}/elsewhere@1]",
        "train.phases=[{after: 2, sequence_length: 96, global_batch: 4}]",
    )
    monkeypatch.setattr(preparing.prepare, "prepare", lambda *given, **_: made.append(given[1]))
    inputs = Inputs([], [Source("b.txt", "b.txt", "0/b.txt", 1, "lines", "", "")])
    preparing.make_shards(config, inputs, lines, training_folders(config))
    names = ["heldout", *["shards"] * own, "shards-96"]
    assert [Path(each).name for each in made] == names
    assert any("train.shards names other folders" in line for line in lines) == (not own)


def test_shards_prepared_elsewhere_give_the_reference_loss(
    tmp_path, prepared_elsewhere, in_this_process
):
    config = settings(tmp_path, "given", *prepared_elsewhere)
    shutil.rmtree(tmp_path / "given" / "shards")
    run_id = pretraining.pretrain(config, Lines())
    assert mlflow_run(config, run_id).info.status == "FINISHED"
    (shards,), folder = config.train.shards, config.train.eval_shards
    expected = unigram_loss(ShardFolder(shards), heldout(folder, 8, 10_000, 0, 1))
    assert sequence._pretraining_summary(config, run_id, Lines())["unigram_loss"] == expected
    assert 3.0 < expected < np.log(65) + 0.1


def test_a_reference_loss_that_cannot_be_computed_ends_no_run(
    tmp_path, in_this_process, monkeypatch
):
    def fail(*_):
        raise OSError("the disk is gone")

    monkeypatch.setattr(pretraining, "unigram_loss", fail)
    config, lines = settings(tmp_path, "r", "train.steps=2"), Lines()
    run_id = pretraining.pretrain(config, lines)
    assert mlflow_run(config, run_id).info.status == "FINISHED"
    assert any("can't be computed: the disk is gone" in line for line in lines)


def test_pictures_that_fail_end_no_run(tmp_path, in_this_process, monkeypatch):
    def fail(*_):
        raise OSError("no font")

    monkeypatch.setattr(pretraining, "_draw", fail)
    config, lines = settings(tmp_path, "drawn", "train.steps=2"), Lines()
    run = mlflow_run(config, pretraining.pretrain(config, lines))
    assert run.info.status == "FINISHED"
    assert any("can't be made: OSError: no font" in line for line in lines)
    files = mlflow.MlflowClient(tracking_uri(config)).list_artifacts(run.info.run_id)
    assert {"metrics.jsonl", "steps.jsonl", "report.html"} <= {file.path for file in files}


def test_a_run_that_fails_is_closed_in_mlflow(tmp_path, in_this_process, monkeypatch):
    def fail(*_):
        raise TrainingError("it broke")

    monkeypatch.setattr(ray_train, "fit", fail)
    config = settings(tmp_path, "broken", "train.steps=2")
    with pytest.raises(TrainingError):
        pretraining.pretrain(config, Lines())
    client = mlflow.MlflowClient(tracking_uri(config))
    experiment = client.get_experiment_by_name(config.tracking.experiment)
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"


def test_an_export_is_made_once_and_registered_wherever_it_is_wanted(
    tmp_path, in_this_process, monkeypatch
):
    made = []
    monkeypatch.setattr(
        exporting.registering,
        "register_export",
        lambda config, folder, run_id: (made.append(config) or f"uri {len(made)}", "noted"),
    )
    addresses = {}

    def known(config, folder, run_id):
        chosen = config.tracking
        return addresses.get((chosen.uri, chosen.registered_model, chosen.alias))

    monkeypatch.setattr(exporting.registering, "known_address", known)
    config, lines = settings(tmp_path, "again", "train.steps=2"), Lines()
    run_id = pretraining.pretrain(config, lines)
    assert exporting.make_export(config, run_id, lines.say) == "uri 1"
    chosen = config.tracking
    addresses[chosen.uri, chosen.registered_model, chosen.alias] = "uri 1"
    written = (RunPaths.of(config).export / "model.safetensors").stat().st_mtime_ns
    assert exporting.make_export(config, run_id, lines.say) == "uri 1"
    changes = [
        {"tracking.alias": "staging"},
        {"tracking.registered_model": "other"},
        {"tracking.uri": f"sqlite:///{tmp_path}/x.db"},
    ]
    for number, change in enumerate(changes, 2):
        other = with_changes(config, change, "")
        chosen = other.tracking
        for _ in range(2):
            assert exporting.make_export(other, run_id, lines.say) == f"uri {number}"
            addresses[chosen.uri, chosen.registered_model, chosen.alias] = f"uri {number}"
    assert exporting.make_export(config, run_id, lines.say) == "uri 1"
    assert len(made) == 4
    assert (RunPaths.of(config).export / "model.safetensors").stat().st_mtime_ns == written
    assert lines[-1] == f"{RunPaths.of(config).export} is up to date"


def test_heads_follow_an_export_that_is_not_registered(tmp_path, monkeypatch):
    """The command ended, and what was to be fine-tuned over night was not."""

    def refuse(config, folder, run_id):
        raise TrackingError("413 Request Entity Too Large")

    config, lines = settings(tmp_path, "refused"), Lines()
    monkeypatch.setattr(exporting, "make_export", refuse)
    assert sequence._export(config, "run", lines.say) == str(RunPaths.of(config).export)
    assert lines == ["413 Request Entity Too Large"]


def test_a_finished_run_is_recorded_whole_in_another_store(tmp_path, in_this_process):
    config = settings(tmp_path, "moved", "train.steps=2")
    first = pretraining.pretrain(config, Lines())
    config = with_changes(config, {"tracking.uri": f"sqlite:///{tmp_path}/other.db"}, "")
    second = pretraining.pretrain(config, Lines())
    assert second != first
    run = mlflow_run(config, second)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["train/mlm_loss"] > 0
    assert pretraining.pretrain(config, Lines()) == second


def fail(*_):
    raise MlflowException("database is locked")


def test_a_head_from_the_export_is_registered_once_below_its_run(
    tmp_path, in_this_process, monkeypatch
):
    monkeypatch.setattr(
        heads,
        "finetune_all",
        lambda jobs, *_: [finetune(job.settings, job.export, job.output, job.seed) for job in jobs],
    )
    rows = [{"text": text, "label": label} for text, label in (("好", "yes"), ("坏", "no"))]
    file = tmp_path / "labelled.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows * 4), "utf-8")
    data = TaskData(train=str(file), dev=str(file), test=str(file))
    head = FinetuneSettings(task="classification", data=data, epochs=1)
    config = settings(tmp_path, "registered", "train.steps=2")
    config = config.model_copy(update={"heads": {"mine": head}})
    parent = pretraining.pretrain(config, Lines())
    exporting.make_export(config, parent, print)
    client = mlflow.MlflowClient(tracking_uri(config))
    for _ in range(2):
        lines = Lines()
        assert heads.finetune_heads(config, parent, lines)["mine_accuracy"].keys() == {
            "pretrained",
            "scratch",
        }
        (version,) = client.search_model_versions("name='nezha-mine-pretrained'")
    assert lines == []
    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "get_model_version_by_alias", fail)
        lines = Lines()
        heads.finetune_heads(config, parent, lines)
        assert "database is locked" in lines[-1]
        with pytest.raises(TrackingError, match="database is locked"):
            exporting.make_export(config, parent, print)
    assert len(client.search_model_versions("name='nezha-mine-pretrained'")) == 1
    own = client.get_run(version.run_id)
    assert own.data.tags["mlflow.parentRunId"] == parent
    assert own.data.params["finetune.task"] == "classification"
    assert own.info.status == "FINISHED"
    assert {"score/mean", "test/accuracy", "test/calibration_error"} <= own.data.metrics.keys()
    (export,) = client.search_model_versions("name='nezha'")
    assert export.tags["head.mine-pretrained"] == "nezha-mine-pretrained/1"
    names = {model.name for model in client.search_registered_models()}
    assert names == {"nezha", "nezha-mine-pretrained"}
    other = with_changes(config, {"tracking.registered_model": "other"}, "")
    exporting.make_export(other, parent, print)
    heads.finetune_heads(other, parent, Lines())
    assert len(client.search_model_versions("name='other-mine-pretrained'")) == 1


def test_a_finished_run_left_open_is_closed(tmp_path, in_this_process):
    config = settings(tmp_path, "killed", "train.steps=2")
    run_id = pretraining.pretrain(config, Lines())
    client = mlflow.MlflowClient(tracking_uri(config))
    client.update_run(run_id, status="RUNNING")
    assert pretraining.pretrain(config, Lines()) == run_id
    assert mlflow_run(config, run_id).info.status == "FINISHED"


def test_held_out_shards_that_do_not_exist_are_refused(tmp_path):
    config = with_changes(settings(tmp_path, "misspelt"), {"train.eval_shards": "nowhere"}, "")
    with pytest.raises(ShardError, match="nowhere"):
        preflight.check_data(config)


def test_held_out_masks_do_not_depend_on_those_of_training(tmp_path, monkeypatch):
    """Held-out losses of runs with other mask rates can be compared.

    They are made first: that they give no sample was found when the corpus had been prepared.
    """
    made = []
    monkeypatch.setattr(preparing.prepare, "prepare", lambda *given, **rest: made.append(given))
    heldout = Source("b.txt", "b.txt", "0/b.txt", 1, "lines", "", "")
    config = settings(
        tmp_path,
        "masks",
        "corpus.inputs=[a.txt]",
        "corpus.heldout=[b.txt]",
        "corpus.masking={mode: dynamic, probability: 0.4, max_ngram: 3}",
    )
    preparing.make_shards(config, Inputs([], [heldout]), Lines())
    assert [Path(given[1]).name for given in made] == ["heldout", "shards"]
    held_out, training = (given[0].masking for given in made)
    assert training == config.corpus.masking
    assert (held_out.mode, held_out.probability, held_out.max_ngram) == ("static", 0.15, 1)
    assert (held_out.mask_share, held_out.random_share) == (0.8, 0.1)


def test_a_head_of_a_run_has_its_name_already(tmp_path):
    config = settings(tmp_path, "heads", "heads.mine={task: pair, name: other}")
    with pytest.raises(ConfigError, match=r"heads\.mine\.name: leave it out"):
        heads.check_heads(config)


def test_a_head_that_cannot_work_is_refused_before_anything_runs(tmp_path):
    config, lines = settings(tmp_path, "heads", "heads.mine={task: pair}"), Lines()
    with pytest.raises(ConfigError, match=r"heads\.mine\.data\.train: name"):
        sequence.run_all(config, lines)
    assert lines == []
    assert not Path(RunPaths.of(config).checkpoints).exists()
