"""What a fine-tuning may start from: an export, a head, an encoder; and what of it is refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import model
from pipeline.errors import ConfigError, ExportError
from pipeline.finetuning.prediction.predict import Head
from pipeline.finetuning.tasks import TASKS
from tests.pipeline.finetuning.conftest import settings, write_rows
from tests.pipeline.finetuning.in_process import finetune


def test_the_pretrained_weights_are_used_and_scratch_has_others(export, data, tmp_path):
    """With a learning rate of almost nothing, the encoder saved is the one that was loaded."""
    given = load_file(export / "model.safetensors")
    key = "nezha.encoder.layer.1.attention.self.query.weight"
    for scratch in (False, True):
        chosen = settings("ner", data, lr=1e-12, epochs=1, dropout=0.2, from_scratch=scratch)
        result = finetune(chosen, str(export), tmp_path / str(scratch), seed=1)
        found = load_file(Path(result.folder, "model.safetensors"))
        assert (
            json.loads(Path(result.folder, "config.json").read_text())["hidden_dropout_prob"] == 0.2
        )
        assert torch.allclose(found[key], given[key], atol=1e-6) is not scratch


def test_a_head_of_another_task_can_be_the_start(export, data, tmp_path):
    """Its classifier, for other labels, is made anew; its encoder is used."""
    rows = [{"text": "京" * (1 + i % 5), "label": i % 3} for i in range(30)]
    path = write_rows(tmp_path / "three.jsonl", *rows)
    three = settings("classification", {"classification": {"train": path}}, epochs=1)
    head = finetune(three, str(export), tmp_path / "three", seed=1).folder
    for task in TASKS:
        chosen = settings(task, data, epochs=1, lr=1e-9)
        result = finetune(chosen, head, tmp_path / task, seed=1)
        lowest = -1 if result.metric == "spearman" else 0
        assert lowest <= result.score <= 1


def test_a_saved_encoder_can_be_the_start(export, data, tmp_path):
    """`AutoModel…save_pretrained`, as sentence-transformers does it too."""
    program = """
import sys
from transformers import AutoModel, AutoTokenizer
AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True).save_pretrained(sys.argv[2])
AutoTokenizer.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])
"""
    encoder = str(tmp_path / "encoder")
    subprocess.run([sys.executable, "-P", "-c", program, str(export), encoder], check=True)
    results = [
        finetune(settings("span", data, epochs=1, lr=1e-9), start, tmp_path / name, seed=1)
        for name, start in (("a", str(export)), ("b", encoder))
    ]
    assert results[0].epochs == results[1].epochs
    assert (tmp_path / "b" / "heads_nezha.py").exists()


def folder_of(architecture, config, export, folder):
    """A folder with random weights of a network of transformers and the tokenizer of an export."""
    shutil.copytree(export, folder, ignore=shutil.ignore_patterns("*.py", "config.json"))
    torch.manual_seed(0)
    architecture(config).save_pretrained(folder)
    return str(folder)


SMALL = {"vocab_size": 200, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
SMALL["num_hidden_layers"] = 1


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("Albert", SMALL | {"embedding_size": 16}),
        ("DistilBert", {"vocab_size": 200, "dim": 32, "n_heads": 2, "n_layers": 1}),
        ("Roberta", SMALL | {"type_vocab_size": 1, "pad_token_id": 0}),
    ],
)
def test_a_network_with_other_dropouts_and_segments_can_be_the_start(
    name, fields, export, data, tmp_path
):
    """Its head gives what was judged in plain transformers too."""
    config = getattr(transformers, f"{name}Config")(**fields)
    start = folder_of(getattr(transformers, f"{name}Model"), config, export, tmp_path / "start")
    chosen = settings("pair", data, epochs=1, dropout=0.25)
    folder = finetune(chosen, start, tmp_path / "head", seed=1).folder
    saved = json.loads(Path(folder, "config.json").read_text())
    assert {saved[each] for each in saved if "dropout" in each} == {0.25}
    example = {"sentence1": "书店很好", "sentence2": "很好"}
    head = Head.load(folder)
    (expected,) = head.answers([head.example(example, "here")])
    given = transformers.pipeline("text-classification", folder, top_k=None)
    found = given({"text": example["sentence1"], "text_pair": example["sentence2"]})
    assert {each["label"]: each["score"] for each in found} == pytest.approx(
        expected["probabilities"], abs=1e-2
    )


def test_a_decay_by_layer_is_refused_where_layers_share_their_weights(export, data, tmp_path):
    config = transformers.AlbertConfig(**SMALL, embedding_size=16)
    start = folder_of(transformers.AlbertModel, config, export, tmp_path / "start")
    with pytest.raises(ConfigError, match=r"layer_decay=0\.5: this network has no layers with"):
        finetune(settings("pair", data, layer_decay=0.5), start, tmp_path / "head", seed=1)


def test_more_tokens_than_a_network_has_positions_are_refused(export, data, tmp_path):
    few = SMALL | {"max_position_embeddings": 40}
    starts = {
        "bert": (transformers.BertModel, transformers.BertConfig(**few)),
        "absolute": (model.NezhaModel, model.NezhaConfig(**few, absolute_positions=True)),
        "relative": (model.NezhaModel, model.NezhaConfig(**few)),
    }
    folders = {name: folder_of(*each, export, tmp_path / name) for name, each in starts.items()}
    chosen = settings("ner", data, epochs=1)
    for name in ("bert", "absolute"):
        with pytest.raises(ExportError, match=r"positions for 40 tokens, and data\.length=48"):
            finetune(chosen, folders[name], tmp_path / "out", seed=1)
    finetune(chosen, folders["relative"], tmp_path / "out", seed=1)


def without_vocabulary(folder):
    """transformers then makes a tokenizer of special tokens alone, in silence."""
    for name in ("tokenizer.json", "vocab.txt"):
        (folder / name).unlink()
    form = json.dumps({"tokenizer_class": "BertTokenizer"})
    (folder / "tokenizer_config.json").write_text(form)


def without_tokenizer(folder):
    """transformers then asks for sentencepiece or tiktoken, which would not help."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


def with_another_shape(folder):
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 40}))


def without_weights(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["nezha.encoder.layer.0.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (without_vocabulary, "its tokenizer holds special tokens only"),
        (without_tokenizer, r"no tokenizer_class .*python -m jobs\.convert"),
        (with_another_shape, r"do not have the shape that config\.json gives"),
        (without_weights, r"weights are missing, .*layer\.0\.output"),
    ],
)
def test_an_export_that_lacks_something_is_refused(export, data, tmp_path, damage, told):
    folder = shutil.copytree(export, tmp_path / "export")
    damage(folder)
    with pytest.raises(ExportError, match=told) as raised:
        finetune(settings("ner", data), str(folder), tmp_path / "out", seed=1)
    assert "sentencepiece" not in str(raised.value)


def test_what_cannot_be_read_of_an_export_is_one_error(export, data, tmp_path):
    """safetensors and the classes of configurations raise errors of their own kinds."""
    config = json.loads((export / "config.json").read_text("utf-8"))
    for name, content in (
        ("model.safetensors", (export / "model.safetensors").read_bytes()[:-100]),
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n"),
        ("config.json", json.dumps(config | {"hidden_size": "wide"}).encode()),
    ):
        folder = shutil.copytree(export, tmp_path / "export", dirs_exist_ok=True)
        (folder / name).write_bytes(content)
        with pytest.raises(ExportError, match=str(folder)):
            finetune(settings("ner", data), str(folder), tmp_path / "out", seed=1)
