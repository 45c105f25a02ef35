import json
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from model import NezhaForPreTraining
from pipeline.corpus.samples.encoder import Encoder
from pipeline.corpus.samples.vocabulary import build_tokenizer
from pipeline.corpus.shards.format import read_manifest
from pipeline.errors import ExportError, VocabularyError
from pipeline.export import folder as export
from pipeline.export import trained_with
from pipeline.export.lineage import read_lineage
from pipeline.export.model_card import model_card
from pipeline.export.scale import rescale_embeddings
from pipeline.paths import RunPaths
from pipeline.settings.reading.config_file import with_changes
from pipeline.stages.registering import known_address, register_export
from pipeline.tracking import runs as tracking
from pipeline.tracking.store import tracking_uri
from pipeline.training.checkpoints import files as checkpoints
from pipeline.training.checkpoints.state import load_weights
from pipeline.training.start.origin import NOTE, origin_at_start
from tests.corpora import write_vocabulary

TEXT = "一丂七，丄 abc丅丆[MASK]万"


def export_of(run, folder, **settings):
    """An export of the run, moved to another folder, whose corpus was made with these settings."""
    _, paths = run
    shutil.copytree(paths.run, folder)
    file = folder / "shards" / "manifest.json"
    manifest = json.loads(file.read_text("utf-8")) | {"settings": settings}
    file.write_text(json.dumps(manifest), "utf-8")
    best = checkpoints.best(folder / "checkpoints")
    return export.export_checkpoint(best, paths.vocab, folder / "export")


def test_the_export_has_the_weights_and_the_lineage(run):
    _, paths = run
    network = NezhaForPreTraining.from_pretrained(paths.export)
    load_weights(fresh := NezhaForPreTraining(network.config), paths.export)
    best = checkpoints.best(paths.checkpoints)
    load_weights(trained := NezhaForPreTraining(network.config), best)
    rescale_embeddings(trained)
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], value, rtol=0, atol=0)
        torch.testing.assert_close(fresh.state_dict()[name], value, rtol=0, atol=0)
    lineage = read_lineage(paths.export)
    assert lineage["step"] == 6
    assert lineage["fingerprint"] == checkpoints.read_state(best)["fingerprint"]
    assert lineage["settings"]["run"]["name"] == "exported"
    assert "held-out mlm_loss" in (paths.export / "README.md").read_text("utf-8")


def test_the_tokenizer_gives_the_ids_that_training_used(run):
    config, paths = run
    tokenizer = AutoTokenizer.from_pretrained(paths.export)
    encoder = Encoder(build_tokenizer(paths.vocab, config.corpus.lowercase))
    text = TEXT.replace("[MASK]", "")
    ids = encoder.encode(text, np.ones(len(text) + 1, bool), np.array([len(text)])).ids
    assert tokenizer(text)["input_ids"][1:-1] == ids.tolist()
    assert tokenizer.mask_token_id in tokenizer(TEXT)["input_ids"]
    assert (paths.export / "vocab.txt").read_bytes() == Path(paths.vocab).read_bytes()


def test_the_tokenizer_folds_what_the_manifest_says(run, tmp_path):
    cleaning = {"html": True, "width": True, "simplify": True, "min_characters": 8}
    folder = export_of(run, tmp_path / "moved", cleaning=cleaning, lowercase=False)
    normal = AutoTokenizer.from_pretrained(folder).backend_tokenizer.normalizer.normalize_str
    assert normal("１２ＡＢ，門") == "12AB， 门 "
    card = (folder / "README.md").read_text("utf-8")
    does, _, does_not = card.partition("A tokenizer cannot do these steps")
    assert "`width`" in does
    assert "`simplify`" in does
    assert "lowercase" not in card
    assert "Load it with `AutoTokenizer.from_pretrained(…, trust_remote_code=True)`" in card
    assert "`html`" in does_not
    assert "transformers 5" in card
    lineage = read_lineage(folder)
    assert lineage["cleaning"] == ["html", "width", "simplify"]


@pytest.mark.parametrize(
    ("made", "sentence", "tags"),
    [
        ({}, "pretrained with whole-word masks and NSP\nfor 6 steps", "whole-word-masking"),
        (
            {"masking": {"whole_words": False}, "pairs": {"task": "none"}},
            "pretrained with masks of single tokens\nfor 6 steps",
            "",
        ),
    ],
)
def test_the_card_says_what_the_network_was_trained_to_predict(run, tmp_path, made, sentence, tags):
    card = (export_of(run, tmp_path / "moved", **made) / "README.md").read_text("utf-8")
    assert sentence in card
    assert f"tags: [{', '.join(filter(None, ('nezha', tags)))}]" in card


def test_the_card_of_a_network_that_was_never_scored_has_no_empty_table(run):
    lineage = read_lineage(run[1].export) | {"heldout": None}
    assert "| measured |" not in model_card(lineage, 10)
    assert "No text was held out" in model_card(lineage, 10)


def test_pairs_without_weight_are_not_named_as_learnt(run):
    config, _ = run
    made = [read_manifest(RunPaths.of(config).shards)]
    assert export._objective(made, config)["pairs"] == ["nsp"]
    unused = with_changes(config, {"train.nsp_weight": 0}, "")
    assert export._objective(made, unused)["pairs"] == []


def test_a_corpus_that_was_not_cleaned_is_not_folded(run):
    _, paths = run
    normal = AutoTokenizer.from_pretrained(paths.export).backend_tokenizer.normalizer
    assert normal.normalize_str("１") == "１"
    assert "was not cleaned" in (paths.export / "README.md").read_text("utf-8")


def test_how_text_was_cleaned_is_never_guessed(run, tmp_path):
    _, paths = run
    shutil.copytree(paths.run, tmp_path / "moved")
    best = checkpoints.best(tmp_path / "moved" / "checkpoints")
    manifest = tmp_path / "moved" / "shards" / "manifest.json"
    shutil.copy(f"{paths.heldout}/manifest.json", manifest)
    with pytest.raises(ExportError, match=r"not the corpus that .* was trained on"):
        export.export_checkpoint(best, paths.vocab, tmp_path / "out")
    manifest.unlink()
    with pytest.raises(ExportError, match="put this file back"):
        export.export_checkpoint(best, paths.vocab, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_segments_are_given_without_asking(run):
    """transformers 5 leaves token_type_ids out unless the tokenizer names them."""
    _, paths = run
    assert AutoTokenizer.from_pretrained(paths.export)("一", "丁")["token_type_ids"] == [
        0,
        0,
        0,
        1,
        1,
    ]


def test_another_vocabulary_is_refused(run, tmp_path):
    _, paths = run
    other = write_vocabulary(tmp_path / "vocab.txt")
    other.write_text(other.read_text("utf-8") + "多\n", "utf-8")
    with pytest.raises(VocabularyError, match="is not the vocabulary"):
        export.export_checkpoint(checkpoints.best(paths.checkpoints), other, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_export_is_named(tmp_path):
    with pytest.raises(ExportError, match="make one with `python -m jobs"):
        read_lineage(tmp_path)


@pytest.mark.slow
def test_the_registered_model_loads_where_this_repository_is_not(run, tmp_path):
    config, paths = run
    run_id = tracking.start_run(config, "registered", {})
    uri, note = register_export(config, paths.export, run_id)
    assert (uri, note) == ("models:/nezha@candidate", "nezha: version 1 is candidate and champion")
    second, note = register_export(config, paths.export, run_id)
    assert "version 2 is candidate, not champion: its heldout_mlm_loss is" in note
    client = mlflow.MlflowClient(tracking_uri(config))
    assert int(client.get_model_version_by_alias("nezha", "candidate").version) == 2
    champion = client.get_model_version_by_alias("nezha", "champion")
    assert (int(champion.version), champion.tags["precision"]) == (1, "fp32")
    assert champion.tags["corpus_fingerprint"] == read_lineage(paths.export)["fingerprint"]
    assert client.get_run(run_id).info.status == "RUNNING"
    check_a_start_from(config, second, tmp_path)
    tracking.finish_run(config, run_id, "FAILED")
    code = f"""
import mlflow, json
mlflow.set_tracking_uri({tracking_uri(config)!r})
folder = mlflow.artifacts.download_artifacts({second!r}, dst_path={str(tmp_path)!r})
from transformers import AutoModelForPreTraining, AutoTokenizer
model = AutoModelForPreTraining.from_pretrained(folder + "/model", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(folder + "/model")
logits = model(**tokenizer("一丁七", return_tensors="pt")).prediction_logits
json.dump(logits.tolist(), open("logits.json", "w"))
for uri in ({uri!r}, folder):
    fill = mlflow.transformers.load_model(uri)
    assert type(fill.model).__name__ == "NezhaForMaskedLM"
    answer = fill("一[MASK]七")[0]["token_str"]
    assert mlflow.pyfunc.load_model(uri).predict(["一[MASK]七"])[0] == answer, uri
"""
    subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, check=True)
    elsewhere = config.tracking.model_copy(
        update={"uri": f"sqlite:///{tmp_path}/other.db", "alias": "staging"}
    )
    other = config.model_copy(update={"tracking": elsewhere})
    assert register_export(other, paths.export, run_id).uri == "models:/nezha@staging"
    made = mlflow.MlflowClient(elsewhere.uri).get_model_version_by_alias("nezha", "staging")
    run_there = mlflow.MlflowClient(elsewhere.uri).get_run(made.run_id)
    assert run_there.data.tags["pretraining_run"] == run_id
    register_export(config, paths.export, run_id)
    assert client.get_run(run_id).info.status == "FAILED", "registering changes no state"
    network = NezhaForPreTraining.from_pretrained(paths.export).eval()
    inputs = AutoTokenizer.from_pretrained(paths.export)("一丁七", return_tensors="pt")
    expected = network(**inputs).prediction_logits
    found = torch.tensor(json.loads((tmp_path / "logits.json").read_text()))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    newest = client.get_model_version_by_alias("nezha", "candidate").version
    assert known_address(config, paths.export, run_id) == "models:/nezha@candidate"
    client.delete_registered_model_alias("nezha", "candidate")
    assert known_address(config, paths.export, run_id) == f"models:/nezha/{newest}"
    assert known_address(config, paths.export, "another run") is None
    client.delete_registered_model("nezha")
    assert known_address(config, paths.export, run_id) is None


def check_a_start_from(config, name, folder):
    """A run keeps to the version that it began with, whatever its alias names later."""
    start = with_changes(config, {"train.init_from": name}, "")
    found = origin_at_start(start, folder)
    assert (found / "model.safetensors").exists()
    assert json.loads((folder / NOTE).read_text())["found"] == "models:/nezha/2"
    assert known_vocabulary(found) == known_vocabulary(RunPaths.of(config).export)


def known_vocabulary(folder):
    return trained_with.read(folder, vocab_size=1).vocab_sha256
