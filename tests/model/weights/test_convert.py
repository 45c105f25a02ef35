"""Weights of every known origin come in exactly, or are refused with a reason."""

import json
import os
import shutil
import sys
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    ErnieConfig,
    ErnieForMaskedLM,
    RobertaConfig,
    RobertaModel,
)

import model as nezha
from jobs.convert import main
from model.weights.convert import WeightsError, convert, read_weights, renamed

HERE = Path(__file__).parents[1]
sys.path.insert(0, str(HERE))

from golden_cases import weight  # noqa: E402

SIZES: dict[str, Any] = {
    "vocab_size": 11,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 12,
}


def small(head: type = nezha.NezhaForPreTraining) -> Any:
    torch.manual_seed(1)
    net = head(nezha.NezhaConfig(**SIZES))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_()
    return net.eval()


def folder_with_config(folder: Path, name: str = "config.json", **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    # Huawei's files hold keys that transformers' don't.
    (folder / name).write_text(json.dumps(SIZES | {"pooler_fc_size": 768} | changes))
    return folder


def saved(folder: Path, state: Any, **changes: Any) -> Path:
    """A folder with weights as transformers once saved them."""
    torch.save(state, folder_with_config(folder, **changes) / "pytorch_model.bin")
    return folder


def assert_same(folder: Path, net: Any) -> None:
    loaded = type(net).from_pretrained(folder)
    for name, value in net.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def tables() -> dict[str, torch.Tensor]:
    """The buffers that old files carry."""
    name = "encoder.layer.0.attention.self.relative_positions_encoding.positions_encoding"
    return {name: torch.zeros(4, 4, 4)}


@pytest.mark.parametrize("head", [nezha.NezhaForPreTraining, nezha.NezhaForMaskedLM])
def test_transformers_bin_with_position_tables(head: type, tmp_path: Path) -> None:
    net = small(head)
    folder = folder_with_config(tmp_path / "in", architectures=[head.__name__])
    old = {f"nezha.{name}": value for name, value in tables().items()}
    torch.save(net.state_dict() | old, folder / "pytorch_model.bin")
    assert convert(folder, tmp_path / "out") == head.__name__
    assert_same(tmp_path / "out", net)
    # from_pretrained itself reads such a folder, too.
    assert_same(folder, net)


def test_safetensors_and_shards(tmp_path: Path) -> None:
    net = small()
    net.save_pretrained(tmp_path / "one")
    net.save_pretrained(tmp_path / "many", max_shard_size="1KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    for name in ["one", "many"]:
        assert convert(tmp_path / name, tmp_path / f"{name}_out") == "NezhaForPreTraining"
        assert_same(tmp_path / f"{name}_out", net)


def test_backbone_alone(tmp_path: Path) -> None:
    net = small(nezha.NezhaModel)
    folder = folder_with_config(tmp_path / "in")
    save_file(net.state_dict(), folder / "model.safetensors")
    assert convert(folder, tmp_path / "out") == "NezhaModel"
    assert_same(tmp_path / "out", net)


def test_a_compiled_network_and_labels_without_names(tmp_path: Path) -> None:
    torch.manual_seed(1)
    net = nezha.NezhaForSequenceClassification(nezha.NezhaConfig(**SIZES, num_labels=3)).eval()
    folder = folder_with_config(
        tmp_path / "in", architectures=["NezhaForSequenceClassification"], num_labels=3
    )
    for prefix in ("_orig_mod.", "_orig_mod.module."):
        compiled = {f"{prefix}{name}": value for name, value in net.state_dict().items()}
        torch.save(compiled, folder / "pytorch_model.bin")
        convert(folder, tmp_path / "out")
        assert_same(tmp_path / "out", net)


def test_huawei_pytorch(tmp_path: Path) -> None:
    net = small()
    renames = ("nezha.", "bert."), ("Norm.weight", "Norm.gamma"), ("Norm.bias", "Norm.beta")
    state = {
        reduce(lambda old, pair: old.replace(*pair), renames, name): value
        for name, value in net.state_dict().items()
    }
    state |= {f"bert.{name}": value for name, value in tables().items()}
    assert "bert.encoder.layer.0.output.LayerNorm.gamma" in state
    state.pop("cls.predictions.decoder.bias")
    folder = saved(tmp_path / "in", state, name="bert_config.json")
    assert convert(folder, tmp_path / "out") == "NezhaForPreTraining"
    assert_same(tmp_path / "out", net)


def test_huawei_tensorflow(tmp_path: Path) -> None:
    """Written by TensorFlow itself, see make_tf_checkpoint.py."""
    config = folder_with_config(tmp_path / "in") / "config.json"
    source = HERE / "golden" / "tensorflow" / "model.ckpt"
    assert convert(source, tmp_path / "out", config) == "NezhaForPreTraining"
    found = nezha.NezhaForPreTraining.from_pretrained(tmp_path / "out").state_dict()
    layer = "encoder.layer.0"
    for ours, theirs, shape in [
        ("nezha.embeddings.word_embeddings.weight", "bert/embeddings/word_embeddings", (11, 8)),
        ("cls.predictions.decoder.weight", "bert/embeddings/word_embeddings", (11, 8)),
        ("nezha.embeddings.LayerNorm.weight", "bert/embeddings/LayerNorm/gamma", (8,)),
        (f"nezha.{layer}.output.dense.weight", "bert/encoder/layer_0/output/dense/kernel", (12, 8)),
        (
            f"nezha.{layer}.attention.self.key.weight",
            "bert/encoder/layer_0/attention/self/key/kernel",
            (8, 8),
        ),
        ("cls.predictions.bias", "cls/predictions/output_bias", (11,)),
        ("cls.seq_relationship.weight", "cls/seq_relationship/output_weights", (2, 8)),
    ]:
        expected = torch.from_numpy(weight(theirs, shape))
        expected = expected.T if theirs.endswith("kernel") else expected
        assert torch.equal(found[ours], expected), ours


@pytest.mark.parametrize("file", ["model.ckpt.meta", "model.ckpt.data-00000-of-00001"])
def test_any_file_of_a_tensorflow_checkpoint_names_it(file: str) -> None:
    folder = HERE / "golden" / "tensorflow"
    assert read_weights(folder / file).keys() == read_weights(folder / "model.ckpt").keys()


def test_tensorflows_heads_and_optimizers() -> None:
    """Names as its scripts for classification and SQuAD write them."""
    found = {"output_weights": 3, "output_bias": 3, "cls/squad/output_weights": 2}
    state = ["loss/beta1_power", "output_bias/Adam_1", "output_weights/LAMBOptimizer"]
    tensors = {name: torch.ones(rows, 8) for name, rows in found.items()}
    assert renamed(tensors | dict.fromkeys(state, torch.ones(8))).keys() == {
        "classifier.weight", "classifier.bias", "qa_outputs.weight",
    }  # fmt: skip


def test_numbers_in_old_files_are_no_weights(tmp_path: Path) -> None:
    net = small()
    numbers = {"nezha.embeddings.position_ids": torch.arange(512)[None]}
    convert(saved(tmp_path / "in", net.state_dict() | numbers), tmp_path / "out")
    assert_same(tmp_path / "out", net)


@pytest.mark.parametrize("head", ["", "NezhaForMaskedLM", "NezhaModel"])
def test_other_architectures_are_told(head: str, tmp_path: Path) -> None:
    """A BERT differs by its positions alone: without them it would answer, and at random."""
    for network, part in (
        (BertForMaskedLM(BertConfig(**SIZES)), "it is a BERT"),
        (BertModel(BertConfig(**SIZES)), "it is a BERT"),
        (RobertaModel(RobertaConfig(**SIZES)), "it is a BERT"),
        (ErnieForMaskedLM(ErnieConfig(**SIZES)), "no encoder of a NEZHA; .*: cls, ernie"),
    ):
        network.save_pretrained(tmp_path / "in")
        with pytest.raises(WeightsError, match=part):
            convert(tmp_path / "in", tmp_path / "out", head=head)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_pointer_of_git_lfs_is_told(name: str, tmp_path: Path) -> None:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 411\n"
    (folder_with_config(tmp_path / "in") / name).write_text(text)
    with pytest.raises(WeightsError, match="git lfs pull"):
        read_weights(tmp_path / "in")


def test_half_precision_files_load_into_float32(tmp_path: Path) -> None:
    net = small()
    folder = saved(tmp_path / "in", {k: v.half() for k, v in net.state_dict().items()})
    convert(folder, tmp_path / "out")
    assert_same(tmp_path / "out", net.half().float())


@pytest.mark.parametrize(
    ("content", "prefix"),
    [
        (lambda state: {"model": state, "optimizer": {"state": {}}, "epoch": 3}, ""),
        (lambda state: {"state_dict": state, "callbacks": {}}, "model."),
        (lambda state: {"state_dict": state}, "model.module."),
    ],
)
def test_checkpoints_of_training_programs(content: Any, prefix: str, tmp_path: Path) -> None:
    net = small()
    state = {prefix + name: value for name, value in net.state_dict().items()}
    convert(saved(tmp_path / "in", content(state)), tmp_path / "out")
    assert_same(tmp_path / "out", net)


def test_two_networks_in_one_file_are_refused(tmp_path: Path) -> None:
    state = small().state_dict()
    for content in ({"model": state, "average": state}, {}, [1]):
        with pytest.raises(WeightsError, match=r"state_dict\(\)"):
            read_weights(saved(tmp_path / "in", content))


def test_values_that_are_not_finite_are_named(tmp_path: Path) -> None:
    state = small().state_dict()
    state["nezha.pooler.dense.weight"][0, 0] = float("nan")
    with pytest.raises(WeightsError, match=r"nezha\.pooler\.dense\.weight are not finite"):
        convert(saved(tmp_path / "in", state), tmp_path / "out")


def test_everything_that_does_not_fit_is_listed(tmp_path: Path) -> None:
    state = small().state_dict()
    state["nezha.surprise"] = state.pop("nezha.pooler.dense.bias")
    state["cls.seq_relationship.weight"] = torch.zeros(3, 8)
    state["cls.seq_relationship.bias"] = torch.zeros(2, dtype=torch.long)
    folder = saved(tmp_path / "in", state)
    with pytest.raises(WeightsError) as caught:
        convert(folder, tmp_path / "out")
    for part in [
        'Missing key(s) in state_dict: "nezha.pooler.dense.bias"',
        'Unexpected key(s) in state_dict: "nezha.surprise"',
        "size mismatch for cls.seq_relationship.weight",
        "type of cls.seq_relationship.bias",
    ]:
        assert part in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_decoder_of_its_own_never_replaces_the_embeddings(tmp_path: Path) -> None:
    """A file may repeat tied weights; where they differ, one of them would be lost."""
    state = {name: value.clone() for name, value in small().state_dict().items()}
    folder = saved(tmp_path / "in", state)
    convert(folder, tmp_path / "out")
    for name in ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias"):
        torch.save(state | {name: state[name] + 1}, folder / "pytorch_model.bin")
        with pytest.raises(WeightsError, match=f"{name} differs from .* set tie_word_embeddings"):
            convert(folder, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    name = "cls.predictions.decoder.weight"
    torch.save(state | {name: state[name] + 1}, folder / "pytorch_model.bin")
    folder_with_config(folder, tie_word_embeddings=False)
    convert(folder, tmp_path / "untied")
    loaded = nezha.NezhaForPreTraining.from_pretrained(tmp_path / "untied").state_dict()
    assert torch.equal(loaded[name], state[name] + 1)
    embeddings = "nezha.embeddings.word_embeddings.weight"
    assert torch.equal(loaded[embeddings], state[embeddings])


def test_two_names_for_one_weight(tmp_path: Path) -> None:
    state = small().state_dict()
    state["bert.pooler.dense.bias"] = state["nezha.pooler.dense.bias"]
    folder = saved(tmp_path / "in", state)
    with pytest.raises(WeightsError, match=r"nezha\.pooler\.dense\.bias"):
        convert(folder, tmp_path / "out")


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.ckpt.index"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "noise"])
def test_damaged_files(name: str, damage: str, tmp_path: Path) -> None:
    folder = folder_with_config(tmp_path / "in")
    if name.endswith(".index"):
        shutil.copytree(HERE / "golden" / "tensorflow", folder, dirs_exist_ok=True)
    elif name.endswith(".bin"):
        torch.save(small().state_dict(), folder / name)
    else:
        save_file(small(nezha.NezhaModel).state_dict(), folder / name)
    content = (folder / name).read_bytes()
    noise = bytes(byte ^ 85 for byte in content)
    (folder / name).write_bytes(
        {"truncated": content[: len(content) // 2], "empty": b"", "noise": noise}[damage]
    )
    with pytest.raises(WeightsError, match=name.removesuffix(".index")):
        read_weights(folder)


def test_truncated_tensorflow_data(tmp_path: Path) -> None:
    shutil.copytree(HERE / "golden" / "tensorflow", tmp_path / "in")
    data = tmp_path / "in" / "model.ckpt.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="truncated"):
        read_weights(tmp_path / "in")


class Malicious:
    """Unpickling this would make a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.marker}",)


def test_a_malicious_pickle_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    folder = saved(tmp_path / "in", {"weight": Malicious(tmp_path / "marker")}, model_type="nezha")
    with pytest.raises(WeightsError, match="pytorch_model"):
        convert(folder, tmp_path / "out")
    with pytest.raises(Exception, match=r"[Ww]eights"):
        nezha.NezhaModel.from_pretrained(folder)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_attention_heads": 3}, "multiple of num_attention_heads"),
        ({"num_attention_heads": 8}, "must be even"),
        ({"num_attention_heads": 0}, "multiple of num_attention_heads"),
        ({"max_relative_position": -1}, "at least 0"),
        ({"add_cross_attention": True}, "is_decoder"),
        ({"hidden_size": "many"}, "hidden_size"),
        ({"hidden_act": "gleu"}, "hidden_act is 'gleu'"),
    ],
)
def test_impossible_configurations(changes: dict, reason: str, tmp_path: Path) -> None:
    folder = saved(tmp_path / "in", small().state_dict(), **changes)
    with pytest.raises(WeightsError, match=reason):
        convert(folder, tmp_path / "out")
    with pytest.raises(Exception, match=reason):
        nezha.NezhaConfig(**(SIZES | changes))


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(HERE / "golden" / "tensorflow" / "model.ckpt")
    config = str(folder_with_config(tmp_path / "in") / "config.json")
    out = str(tmp_path / "out")
    assert main(["--input", source, "--output", out, "--dry-run"]) == 0
    assert "nezha.pooler.dense.weight (8, 8)" in capsys.readouterr().out
    assert not Path(out).exists()
    assert main(["--input", source, "--output", out, "--model-config", config]) == 0
    assert Path(out, "modeling_nezha.py").exists()
    assert "has no tokenizer" in capsys.readouterr().out
    assert main(["--input", str(tmp_path / "none"), "--output", out]) == 2
    assert f"{tmp_path / 'none'}: no such file or folder" in capsys.readouterr().err
    vocab = str(tmp_path / "none.txt")
    assert main(["--input", source, "--output", out, "--vocab", vocab]) == 2
    assert f"--vocab {vocab}: no such file" in capsys.readouterr().err


def test_an_encoder_without_a_pooler_comes_in(tmp_path: Path) -> None:
    net = small(nezha.NezhaModel)
    folder = folder_with_config(tmp_path / "in")
    kept = {name: value for name, value in net.state_dict().items() if "pooler" not in name}
    save_file(kept, folder / "model.safetensors")
    assert convert(folder, tmp_path / "out") == "NezhaModel"
    loaded = nezha.NezhaModel.from_pretrained(tmp_path / "out", add_pooling_layer=False)
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, kept[name])


def test_an_encoder_saved_from_a_network_and_a_class_that_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = small()
    folder = folder_with_config(tmp_path / "in")
    whole = net.state_dict()
    encoder = {name: whole[name] for name in whole if name.startswith("nezha.")}
    torch.save(encoder, folder / "pytorch_model.bin")
    assert convert(folder, tmp_path / "encoder") == "NezhaModel"
    assert_same(tmp_path / "encoder", net.nezha)
    unpaired = {name: whole[name] for name in whole if "seq_relationship" not in name}
    torch.save(unpaired, folder / "pytorch_model.bin")
    with pytest.raises(
        WeightsError, match=r"pooler(.|\n)*a class that is named \(--head\) leaves out"
    ):
        convert(folder, tmp_path / "words")
    named = ["--input", str(folder), "--output", str(tmp_path / "words"), "--head"]
    assert main([*named, "NezhaForMaskedLM"]) == 0
    told = "does not have these weights, which are left out: nezha.pooler.dense.bias, nezha.pooler"
    assert told in capsys.readouterr().out
    loaded = nezha.NezhaForMaskedLM.from_pretrained(tmp_path / "words")
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(loaded(ids).logits, net(ids).prediction_logits)
    assert main([*named, "NezhaForPreTraining"]) == 2
    assert_same(tmp_path / "words", loaded)


def test_folders_that_would_become_a_mixture_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved(tmp_path / "in", small().state_dict())
    out = tmp_path / "out"
    arguments = ["--input", str(folder), "--output", str(out)]
    assert main(arguments) == 0
    assert main(arguments) == 0
    (out / "pytorch_model.bin").touch()
    (tmp_path / "file").touch()
    for place, told in (
        (out, "holds other files (pytorch_model.bin)"),
        (tmp_path / "file", "not a folder"),
        (folder, "is the folder of the input"),
    ):
        assert main(["--input", str(folder), "--output", str(place)]) == 2
        assert told in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "pytorch_model.bin"]
