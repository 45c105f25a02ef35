"""The recipe: learning rates, weights of labels, micro-batches, early stopping."""

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from pipeline.errors import ConfigError
from pipeline.finetuning import loading
from pipeline.finetuning import network as networks
from pipeline.finetuning.step import label_weights
from pipeline.finetuning.tasks import TASKS
from pipeline.finetuning.training import parameter_groups, rate_share, train
from pipeline.settings.finetuning import FinetuneSettings
from tests.pipeline.finetuning.in_process import model_and_sets


@pytest.mark.parametrize("steps", [1, 2, 10, 1000])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5])
def test_the_learning_rate_rises_and_falls(steps, warmup):
    shares = [rate_share(step, steps, warmup) for step in range(steps)]
    assert max(shares) == 1.0
    top = shares.index(1.0)
    assert top == max(1, round(warmup * steps)) - 1
    assert shares[: top + 1] == sorted(shares[: top + 1])
    assert shares[top:] == sorted(shares[top:], reverse=True)
    assert min(shares) > 0


def settings(task, data, **more):
    values = {"task": task, "lr": 5e-3, "batch": 16, "dropout": 0.0, "epochs": 1}
    return FinetuneSettings.model_validate(values | {"data": data[task] | {"length": 48}} | more)


def trained(export, chosen, lines=None):
    """The network after training, and what `train` returned."""
    model, sets = model_and_sets(str(export), chosen, 0)
    lines = [] if lines is None else lines
    return model.network, train(model, chosen, 1, sets, lines.append)


def test_lower_layers_learn_more_slowly(export, data):
    chosen = settings("ner", data, layer_decay=0.5, lr=1.0, weight_decay=0.3)
    network = loading.build(TASKS["ner"], str(export), ["O", "B-X", "I-X"], 0.0, False)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    rates, decays = {}, {}
    for group in parameter_groups(network, chosen):
        for parameter in group["params"]:
            rates[names[id(parameter)]] = group["lr"]
            decays[names[id(parameter)]] = group["weight_decay"]
    assert set(rates) == set(names.values())
    assert rates["classifier.weight"] == 1.0
    assert rates["nezha.encoder.layer.1.output.dense.weight"] == 0.5
    assert rates["nezha.encoder.layer.0.output.dense.bias"] == 0.25
    assert rates["nezha.embeddings.word_embeddings.weight"] == 0.125
    assert decays["nezha.encoder.layer.0.output.dense.bias"] == 0.0
    assert decays["nezha.encoder.layer.0.output.dense.weight"] == 0.3
    assert len(parameter_groups(network, settings("ner", data))) == 2


def test_weights_of_labels():
    labels, targets = ["a", "b", "c"], [0, 0, 0, 1, 2, 2, -100]
    even = FinetuneSettings(task="classification", label_weights="balanced")
    expected = compute_class_weight("balanced", classes=np.arange(3), y=targets[:-1])
    assert label_weights(even, labels, targets).tolist() == pytest.approx(expected.tolist())
    own = FinetuneSettings(task="classification", label_weights={"b": 3.0})
    assert label_weights(own, labels, targets).tolist() == [1.0, 3.0, 1.0]
    assert label_weights(FinetuneSettings(task="ner"), labels, targets) is None


def test_a_mean_counts_all_numbers_of_a_regression():
    assert networks.target_weight(torch.tensor([[-100.0], [3.0]])) == 2.0
    assert networks.target_weight(torch.tensor([[-100], [3]])) == 1.0


@pytest.mark.parametrize("task", ["ner", "choice"])
def test_micro_batches_give_the_step_of_the_whole_batch(task, export, data):
    weighted = {"label_weights": "balanced"} if task == "ner" else {}
    ways = [
        trained(export, chosen)[0].state_dict()
        for size in (0, 5)
        for chosen in [settings(task, data, micro_batch=size, precision="fp32", **weighted)]
    ]
    for name, tensor in ways[0].items():
        # Softmax does not see these biases (that of ner is compared by the loss): their gradient is
        # rounding, which Adam scales up.
        if not name.endswith(("key.bias", "classifier.bias")):
            assert torch.allclose(tensor, ways[1][name], atol=5e-4), name


def test_training_stops_when_dev_does_not_get_better(export, data):
    lines = []
    chosen = settings("ner", data, epochs=9, lr=1e-12, patience=2)
    _, result = trained(export, chosen, lines)
    assert len(result.epochs) == 3
    assert lines[-1] == "no better dev score in 2 epochs: stopped"


def test_label_weights_and_clipping_have_an_effect(export, data):
    plain = trained(export, settings("classification", data))[1].epochs
    for more in ({"label_weights": {"1": 9.0}}, {"clip": 0.01}, {"warmup": 0.9}):
        assert trained(export, settings("classification", data, **more))[1].epochs != plain


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_precision(export, data):
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        trained(export, settings("ner", data, precision="fp16"))
    plain, rounded = (
        trained(export, settings("ner", data, precision=each))[1] for each in ("fp32", "bf16")
    )
    assert plain.epochs != rounded.epochs
    assert plain.dev["f1"] == pytest.approx(rounded.dev["f1"], abs=0.1)
