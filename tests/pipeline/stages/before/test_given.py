"""Shards and weights that settings name are looked at before a corpus is prepared."""

import json
import shutil
from pathlib import Path

import pytest

from pipeline.corpus.shards import format as shards
from pipeline.errors import CheckpointError, ConfigError, ShardError, VocabularyError
from pipeline.paths import RunPaths
from pipeline.settings.reading.config_file import with_changes
from pipeline.stages import sequence
from pipeline.stages.before import given, preflight
from tests.reported import Lines
from tests.small_run import settings

TEXT = {"corpus.inputs": ["text.txt"]}


def changed(config, **more):
    return with_changes(config, TEXT | {key.replace("__", "."): more[key] for key in more}, "")


@pytest.mark.parametrize("key", ["train.shards", "train.eval_shards"])
def test_shards_that_are_not_there(tmp_path, key):
    """They were looked for when the corpus had been prepared."""
    config = settings(tmp_path, "none")
    absent = str(tmp_path / "absent")
    value = [absent] if key == "train.shards" else absent
    wrong = with_changes(config, TEXT | {key: value}, "")
    with pytest.raises(ShardError, match="absent: no manifest"):
        sequence.run_all(wrong, Lines())
    given.check(changed(config))
    held = with_changes(config, {"corpus.heldout": ["held.txt"]} | TEXT | {key: value}, "")
    if key == "train.eval_shards":
        given.check(held)  # it will be made


def test_a_network_that_cannot_read_the_samples(tmp_path):
    """It failed in each worker, which Ray started again and again."""
    config = settings(tmp_path, "short")
    short = {"model.absolute_positions": True, "model.max_position_embeddings": 32}
    text = tmp_path / "text.txt"
    text.write_text("字", "utf-8")
    for make in ({"corpus.inputs": [str(text)]}, {"demo.enabled": True}):
        with pytest.raises(ConfigError, match="is less than the 128 tokens of a sample"):
            preflight.check(with_changes(config, short | make, ""))
        with pytest.raises(ConfigError, match="samples of two segments need 2"):
            preflight.check(with_changes(config, {"model.type_vocab_size": 1} | make, ""))
    alone = {"model.type_vocab_size": 1, "corpus.pairs.task": "none", "demo.enabled": True}
    preflight.check(with_changes(config, alone, ""))
    length = shards.read_manifest(RunPaths.of(config).shards).sequence_length
    with pytest.raises(ConfigError, match=f"is less than the {length} tokens of a sample"):
        preflight.check_data(with_changes(config, short, ""))
    with pytest.raises(ConfigError, match="samples of two segments need 2"):
        preflight.check_data(with_changes(config, {"model.type_vocab_size": 1}, ""))
    phase = {"after": 6, "sequence_length": 512, "global_batch": 16}
    later = {"train.phases": [phase], "demo.enabled": True, "model.absolute_positions": True}
    preflight.check(with_changes(config, later, ""))
    longer = {**later, "train.phases": [{**phase, "sequence_length": 513}]}
    with pytest.raises(ConfigError, match="is less than the 513 tokens of a sample"):
        preflight.check(with_changes(config, longer, ""))


def test_weights_that_a_run_cannot_start_from(tmp_path):
    config = settings(tmp_path, "start")
    vocab = Path(RunPaths.of(config).vocab)
    export = tmp_path / "export"
    export.mkdir()
    shutil.copy(vocab, export / "vocab.txt")
    shape = preflight.network_config(config.model, 65)
    shape.save_pretrained(export)
    fine = changed(config, train__init_from=str(export), corpus__vocab=str(vocab))
    given.check(fine)
    for more, error, message in (
        ({"train.init_from": str(tmp_path / "absent")}, CheckpointError, "absent: no such folder"),
        ({"train.init_from": str(vocab)}, CheckpointError, "neither a checkpoint_"),
        ({"train.init_state": "full"}, CheckpointError, "holds no optimizer state"),
        ({"model.num_hidden_layers": 1}, CheckpointError, "weights of another network"),
        ({"corpus.vocab": str(other(tmp_path, vocab))}, VocabularyError, "another vocabulary"),
    ):
        with pytest.raises(error, match=message):
            sequence.run_all(with_changes(fine, more, ""), Lines())


def other(tmp_path, vocab):
    path = tmp_path / "other.txt"
    words = vocab.read_text("utf-8").splitlines()
    path.write_text("\n".join([*words[:-2], words[-1], words[-2]]) + "\n", "utf-8")
    return path


def test_settings_that_the_shards_were_not_made_with(tmp_path):
    """They were accepted, and the shards' own masks and pairs were trained on."""
    config = settings(tmp_path, "made")
    path = Path(RunPaths.of(config).shards, shards.MANIFEST)
    manifest = json.loads(path.read_text("utf-8"))
    manifest["settings"] = given.CorpusSettings().model_dump(mode="json")
    path.write_text(json.dumps(manifest), "utf-8")
    preflight.check_data(config)
    wrong = {"corpus.masking.probability": 0.3, "corpus.pairs.short_share": 0.2}
    with pytest.raises(ConfigError) as raised:
        preflight.check_data(with_changes(config, wrong, ""))
    for key, value, made in (("masking.probability", 0.3, 0.15), ("pairs.short_share", 0.2, 0.1)):
        assert f"corpus.{key}={value} has no effect: the shards in {path.parent}" in str(
            raised.value
        )
        assert f"were made with {made}" in str(raised.value)
    drawn = {"corpus.masking.mode": "dynamic", "corpus.masking.probability": 0.3}
    preflight.check_data(with_changes(config, drawn | {"corpus.sequence_length": 64}, ""))
    elsewhere = {"train.shards": [str(path.parent)], "corpus.output": str(tmp_path / "own")}
    preflight.check_data(with_changes(config, wrong | elsewhere | TEXT, ""))  # of held-out shards


def test_more_workers_than_there_is_room_for(tmp_path, monkeypatch):
    """They were counted when the corpus had been prepared."""
    monkeypatch.setattr(preflight, "usable_cpus", lambda: 2)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = changed(settings(tmp_path, "room"), scaling__gpus_per_worker=0)
    preflight.check_room(config)
    many = with_changes(config, {"scaling.workers": 3}, "")
    with pytest.raises(ConfigError, match=r"3 worker\(s\) need 3 CPUs and the cluster has 2"):
        sequence.run_all(many, Lines())
    with pytest.raises(ConfigError, match=r"2 worker\(s\) need 4 CPUs"):
        preflight.check_room(with_changes(config, {"scaling.cpus_per_worker": 2}, ""))
    with pytest.raises(ConfigError, match=r"2 worker\(s\) need 2 GPUs and the cluster has 0"):
        preflight.check_room(with_changes(config, {"scaling.gpus_per_worker": 1}, ""))
    preflight.check_room(with_changes(many, {"scaling.wait_seconds": 9}, ""))
