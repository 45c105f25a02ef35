import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

import model as nezha
from model.plain_linear import in_one_product, is_plain
from tests.model.test_modeling import SIZES, build, ids


def test_one_product_is_three() -> None:
    layers = [nn.Linear(6, 5) for _ in range(3)]
    x = torch.randn(2, 7, 6, requires_grad=True)
    weights = [weight for layer in layers for weight in layer.parameters()]
    one, three = in_one_product(layers, x), [layer(x) for layer in layers]
    for first, second in zip(one, three, strict=True):
        torch.testing.assert_close(first, second)
    probe = torch.randn(3, 2, 7, 5)
    for first, second in zip(
        torch.autograd.grad((torch.stack(one) * probe).sum(), [x, *weights]),
        torch.autograd.grad((torch.stack(three) * probe).sum(), [x, *weights]),
        strict=True,
    ):
        torch.testing.assert_close(first, second)


def test_what_is_plain() -> None:
    layer = nn.Linear(3, 3)
    assert is_plain(layer)
    assert not is_plain(layer, nn.Linear(3, 3, bias=False))
    assert not is_plain(nn.Sequential(layer))
    with torch.autocast("cpu"):
        assert not is_plain(layer)
    handle = layer.register_forward_pre_hook(lambda *_: None)
    assert not is_plain(layer)
    handle.remove()
    assert is_plain(layer)


@pytest.mark.parametrize("target", ["query", "output.dense"])
def test_adapters_are_called(target: str) -> None:
    """Their part of the output does not get lost in a shortcut."""
    net = build(nezha.NezhaForMaskedLM).train()
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    before = net(ids(2, 9)).logits
    adapted = get_peft_model(net, LoraConfig(target_modules=[target], init_lora_weights=False))
    assert (adapted(ids(2, 9)).logits - before).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["intermediate", "intermediate.activation", "output"])
def test_hooks_are_called(name: str) -> None:
    net, calls = build().train(), []
    module = net.encoder.layer[0].get_submodule(name)
    module.register_forward_hook(lambda *_: calls.append(name))
    net(ids(2, 9))
    assert calls == [name]


@pytest.mark.parametrize("name", ["intermediate.dense", "output.dense", "output"])
def test_a_forward_of_its_own_is_called(name: str) -> None:
    """As accelerate gives one to a module whose weights are elsewhere."""
    net, calls = build().train(), []
    module = net.encoder.layer[0].get_submodule(name)
    plain = module.forward
    module.forward = lambda *given: (calls.append(name), plain(*given))[1]
    net(ids(2, 9))
    assert calls == [name]


@pytest.mark.parametrize("name", ["intermediate", "output"])
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
    setattr(layer, name, Wrapped(getattr(layer, name)))
    assert (net(ids(2, 9)).last_hidden_state - before).abs().max() > 1e-3


def test_a_frozen_weight_has_no_gradient() -> None:
    net = build().train()
    dense = net.encoder.layer[0].output.dense
    dense.weight.requires_grad_(False)
    net(ids(2, 9)).last_hidden_state.sum().backward()
    assert dense.weight.grad is None
    assert dense.bias.grad is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_feed_forward_keeps_its_gradients(dtype: torch.dtype, monkeypatch) -> None:
    """The shortcut against the modules."""
    net = build(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).to(dtype).train()
    layer, x = net.encoder.layer[0], torch.randn(2, 9, SIZES["hidden_size"]).to(dtype)

    def gradients():
        inputs = x.clone().requires_grad_()
        out = layer._feed_forward(inputs)
        return out, *torch.autograd.grad(
            out.float().cos().sum(),
            [inputs, *layer.intermediate.parameters(), *layer.output.parameters()],
        )

    assert nezha.layers_nezha.gelu_linear_suits(
        layer.intermediate.activation, layer.output.dense, x
    )
    short = gradients()
    monkeypatch.setattr(nezha.layers_nezha, "gelu_linear_suits", lambda *_: False)
    for one, other in zip(short, gradients(), strict=True):
        torch.testing.assert_close(one, other)


def test_feed_forward_does_not_keep_the_activation() -> None:
    net = build(hidden_size=32, intermediate_size=640).train()
    kept = []

    def pack(x: torch.Tensor) -> torch.Tensor:
        kept.append(tuple(x.shape))
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        net.encoder.layer[0]._feed_forward(torch.randn(2, 9, 32))
    assert kept.count((2, 9, 640)) + kept.count((18, 640)) == 1
