"""Every module is called as a module: hooks, adapters and replacements take effect."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

import model as nezha
from tests.model.test_modeling import build, ids

MODULES = [
    "attention.self.query",
    "attention.output.LayerNorm",
    "intermediate",
    "intermediate.intermediate_act_fn",
    "intermediate.dense",
    "output.dense",
    "output",
]


@pytest.mark.parametrize("target", ["query", "output.dense"])
def test_adapters_are_called(target: str) -> None:
    net = build(nezha.NezhaForMaskedLM).train()
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    before = net(ids(2, 9)).logits
    adapted = get_peft_model(net, LoraConfig(target_modules=[target], init_lora_weights=False))
    assert (adapted(ids(2, 9)).logits - before).abs().max() > 1e-3


@pytest.mark.parametrize("name", MODULES)
def test_hooks_are_called(name: str) -> None:
    net, calls = build().train(), []
    module = net.encoder.layer[0].get_submodule(name)
    module.register_forward_hook(lambda *_: calls.append(name))
    net(ids(2, 9))
    assert calls == [name]


@pytest.mark.parametrize("name", ["attention.self.query", "intermediate", "output"])
def test_a_module_in_the_place_of_another_is_called(name: str) -> None:
    class Wrapped(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, *given: torch.Tensor) -> torch.Tensor:
            return 2 * self.inner(*given)

    net = build(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    before = net(ids(2, 9)).last_hidden_state
    layer = net.encoder.layer[0]
    layer.set_submodule(name, Wrapped(layer.get_submodule(name)))
    assert (net(ids(2, 9)).last_hidden_state - before).abs().max() > 1e-3


@pytest.mark.parametrize("adapted", [False, True])
def test_loss_of_the_lm_head(adapted: bool) -> None:
    """The decoder computes it, or what has taken the place of the decoder gives the scores."""
    head = build(nezha.NezhaForPreTraining).cls.predictions
    if adapted:
        head.decoder = nn.Sequential(head.decoder, nn.Tanh())
    x, labels = torch.randn(7, 32), torch.randint(61, (7,))
    loss, right = head(x, labels)
    scores = head(x)
    expected = nn.functional.cross_entropy(scores, labels, reduction="sum")
    torch.testing.assert_close(loss, expected)
    assert torch.equal(right, scores.argmax(-1) == labels)
