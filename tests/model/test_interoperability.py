"""Compilers, exporters and trainers work on the network without changes to it."""

from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainingArguments

import model as nezha
from pipeline.training.objective import Inputs, PretrainingObjective
from tests.model.test_modeling import build, ids

NO_DROPOUT: dict[str, Any] = dict.fromkeys(
    ["hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"], 0.0
)
HEADS = [head for head in nezha.AUTO_CLASSES.values() if head is not nezha.NezhaModel]


def inputs_for(head: type, batch: int = 2, length: int = 9) -> dict[str, torch.Tensor]:
    shape = (batch, 3, length) if head is nezha.NezhaForMultipleChoice else (batch, length)
    mask = torch.ones(shape, dtype=torch.long)
    mask[..., 0, -2:] = 0
    return {
        "input_ids": ids(*shape),
        "attention_mask": mask,
        "token_type_ids": (torch.arange(length) > 4).long().expand(shape).contiguous(),
    }


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("training", [False, True])
def test_compiles_without_graph_breaks(attention: str, training: bool) -> None:
    net = build(nezha.NezhaForPreTraining, num_hidden_layers=1, attn_implementation=attention)
    inputs = inputs_for(type(net)) | {
        "labels": ids(2, 9),
        "next_sentence_label": torch.tensor([0, 1]),
    }
    expected = net(**inputs).loss
    # In training the dropout differs: the test is then that there is one graph.
    net.train(training)
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    loss = compiled(**inputs).loss
    if not training:
        torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(p.grad is not None for p in net.parameters())


def test_the_training_network_compiles_without_graph_breaks() -> None:
    """One graph for packed sequences of any number and length, in training, with dropout."""
    net = build(nezha.NezhaForPreTraining, num_hidden_layers=1, attn_implementation="sdpa")
    objective = PretrainingObjective(net).train()
    torch._dynamo.reset()
    compiled = torch.compile(objective, fullgraph=True, dynamic=True, backend="aot_eager")
    for turn, lengths in enumerate([[5, 9, 3], [7, 2, 4, 6], [9, 8, 2]]):
        tokens = ids(sum(lengths))
        starts = [0, *np.cumsum(lengths).tolist()]
        inputs = Inputs(
            *(tokens, torch.zeros_like(tokens)),
            *(torch.tensor(starts, dtype=torch.int32), 16, torch.arange(8)),
            *(tokens[:8], torch.zeros(len(lengths), dtype=torch.long)),
        )
        with torch._dynamo.config.patch(error_on_recompile=turn > 0):
            loss, _, _ = compiled(inputs)
        loss.backward()
        assert loss.isfinite()
    assert all(p.grad is not None for p in net.parameters())
    net.train(False)
    with torch.no_grad():
        torch.testing.assert_close(compiled(inputs)[0], objective(inputs)[0])


@pytest.mark.parametrize("head", HEADS)
def test_torch_export_of_every_head(head: Any) -> None:
    net = build(head, num_hidden_layers=1)
    example = inputs_for(head)
    batch, length = torch.export.Dim("batch", max=64), torch.export.Dim("length", max=512)
    sizes = {0: batch, (2 if head is nezha.NezhaForMultipleChoice else 1): length}
    program = torch.export.export(
        net, args=(), kwargs=example, dynamic_shapes=dict.fromkeys(example, sizes), strict=False
    )
    other = inputs_for(head, batch=4, length=21)
    with torch.no_grad():
        for one, two in zip(
            program.module()(**other).to_tuple(), net(**other).to_tuple(), strict=True
        ):
            torch.testing.assert_close(one, two)


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize(
    "head", [HEADS[0], *(pytest.param(h, marks=pytest.mark.slow) for h in HEADS[1:])]
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_onnx_of_every_head(head: Any, dynamo: bool, tmp_path: Path) -> None:
    """By both exporters, for other batch sizes and lengths than that of the example.

    The old exporter takes an old opset, whose scatter_add keeps one value of several.
    """
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    net = build(head, num_hidden_layers=1)
    example = inputs_for(head)
    last = 2 if head is nezha.NezhaForMultipleChoice else 1
    settings: dict[str, Any] = {
        "input_names": list(example),
        "dynamic_axes": {name: {0: "batch", last: "length"} for name in example},
    }
    if dynamo:
        batch, length = torch.export.Dim("batch", max=64), torch.export.Dim("length", max=512)
        settings = {"dynamic_shapes": {name: {0: batch, last: length} for name in example}}
    torch.onnx.export(
        net,
        args=() if dynamo else tuple(example.values()),
        kwargs=example if dynamo else None,
        f=tmp_path / "net.onnx",
        dynamo=dynamo,
        opset_version=None if dynamo else 12,
        verbose=False,
        **settings,
    )
    session = runtime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    other = inputs_for(head, batch=3, length=33)
    found = session.run(None, {name: value.numpy() for name, value in other.items()})
    with torch.no_grad():
        expected = net(**other).to_tuple()
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, two.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_saved_trace_of_every_head(head: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """Of a class whose module has a name that TorchScript cannot read, as that of an export."""
    net = build(head, num_hidden_layers=1)
    for each in {type(module) for module in net.modules()}:
        if each.__module__.startswith("model."):
            monkeypatch.setattr(each, "__module__", "transformers_modules.a-b.1c.heads_nezha")
    example, other = inputs_for(head), inputs_for(head, batch=3, length=33)
    torch.jit.save(torch.jit.trace(net, tuple(example.values()), strict=False), tmp_path / "net.pt")
    with torch.no_grad():
        found = torch.jit.load(tmp_path / "net.pt")(*other.values())
        for one, two in zip(found.values(), net(**other).to_tuple(), strict=True):
            torch.testing.assert_close(one, two)


@pytest.mark.parametrize("head", nezha.AUTO_CLASSES.values())
def test_forward_says_what_its_output_holds(head: Any) -> None:
    """sentence-transformers reads the fields from there, also of the networks of CrossEncoder."""
    _, *outputs = get_args(get_type_hints(head.forward)["return"])
    assert outputs
    assert all("hidden_states" in {field.name for field in fields(each)} for each in outputs)


class Sequences(torch.utils.data.Dataset):
    """Four sequences; the label is whether the second token is 7, or some of the words."""

    def __init__(self, words: bool = False) -> None:
        self.words = words

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens, label = ids(4, 9)[index].clone(), torch.tensor(index % 2)
        tokens[1] = 7 if index % 2 else 8
        if not self.words:
            return {"input_ids": tokens, "labels": label}
        chosen = torch.arange(9) <= 2 * index
        return {
            "input_ids": tokens,
            "labels": tokens.where(chosen, -100),
            "next_sentence_label": label,
        }


def history(net: torch.nn.Module, folder: Path, data: Sequences, **settings: Any) -> list[dict]:
    """What the Trainer logs at each step."""
    pytest.importorskip("accelerate")
    arguments = TrainingArguments(
        output_dir=str(folder),
        learning_rate=5e-3,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        **{"num_train_epochs": 40, "per_device_train_batch_size": 4, **settings},
    )
    trainer = Trainer(model=net, args=arguments, train_dataset=data)
    trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def test_trainer(tmp_path: Path) -> None:
    net = build(nezha.NezhaForSequenceClassification, **NO_DROPOUT)
    found = history(net, tmp_path, Sequences())
    assert found[-1]["loss"] < found[0]["loss"] / 2


def test_accumulated_gradients_equal_those_of_the_whole_batch(tmp_path: Path) -> None:
    """However the masked words fall on the parts of the batch."""
    found = []
    for parts in (1, 4):
        net = build(nezha.NezhaForPreTraining, **NO_DROPOUT)
        found += history(
            net,
            tmp_path,
            Sequences(words=True),
            num_train_epochs=1,
            per_device_train_batch_size=4 // parts,
            gradient_accumulation_steps=parts,
        )
    assert found[0]["grad_norm"] == pytest.approx(found[1]["grad_norm"], rel=1e-4)
    assert found[0]["loss"] == pytest.approx(found[1]["loss"], rel=1e-4)


def test_lora(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    net = build(nezha.NezhaForSequenceClassification, **NO_DROPOUT)
    frozen = net.nezha.encoder.layer[0].attention.self.query.weight.clone()
    settings = peft.LoraConfig(
        task_type="SEQ_CLS", r=4, target_modules=["query", "value"], lora_dropout=0.0
    )
    adapted = peft.get_peft_model(net, settings)
    found = history(adapted, tmp_path, Sequences())
    assert found[-1]["loss"] < found[0]["loss"] / 2
    adapter = adapted.base_model.model.nezha.encoder.layer[0].attention.self.query
    assert adapter.lora_B["default"].weight.abs().sum() > 0
    merged = adapted.merge_and_unload()
    assert not torch.equal(merged.nezha.encoder.layer[0].attention.self.query.weight, frozen)
