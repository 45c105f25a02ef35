"""What looks at operators sees those of torch, and what it computes from them is right."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils.flop_counter import FlopCounterMode

from model.fused.add_norm import fused
from model.fused.dropout import Dropout
from model.observed import are_ordinary, is_recorded
from tests.model.test_modeling import CLOSE, SIZES, build, ids

NETWORKS = pytest.mark.parametrize("attention", ["eager", "sdpa"])


def embedded(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, SIZES["hidden_size"], generator=torch.Generator().manual_seed(seed))


def encoder(attention: str):
    net = build(attn_implementation=attention)
    return lambda x: net(inputs_embeds=x).last_hidden_state


@NETWORKS
def test_a_graph_computes_from_its_own_input(attention: str) -> None:
    net = encoder(attention)
    with torch.no_grad():
        graph = make_fx(net)(embedded(0, 2, 9))
        torch.testing.assert_close(graph(embedded(1, 2, 9)), net(embedded(1, 2, 9)), **CLOSE)


@NETWORKS
def test_mapped_over_a_dimension(attention: str) -> None:
    net, x = encoder(attention), embedded(0, 3, 2, 9)
    with torch.no_grad():
        expected = torch.stack([net(one) for one in x])
        torch.testing.assert_close(torch.vmap(net)(x), expected, **CLOSE)


@NETWORKS
def test_forward_derivatives(attention: str) -> None:
    net, x, direction = encoder(attention), embedded(0, 2, 9), embedded(1, 2, 9)
    with torch.no_grad():
        _, found = torch.func.jvp(net, (x,), (direction,))
        near = (net(x + 1e-2 * direction) - net(x - 1e-2 * direction)) / 2e-2
    torch.testing.assert_close(found, near, rtol=1e-2, atol=1e-2)


@NETWORKS
def test_fake_tensors(attention: str) -> None:
    with FakeTensorMode():
        net = build(attn_implementation=attention)
        assert net(ids(2, 9)).last_hidden_state.shape == (2, 9, SIZES["hidden_size"])


@NETWORKS
def test_a_subclass_of_tensors(attention: str) -> None:
    net, one, other = encoder(attention), embedded(0, 2, 9), embedded(1, 2, 9)
    with torch.no_grad():
        both = net(TwoTensor(one, other))
        torch.testing.assert_close(both.a, net(one), **CLOSE)
        torch.testing.assert_close(both.b, net(other), **CLOSE)


@pytest.mark.parametrize("missing", ["norm", "residual"])
def test_weights_elsewhere_are_left_to_torch(missing: str) -> None:
    """Whose error it is then: kernels would read memory that is not theirs."""
    x = torch.zeros(2, 3, 8)
    norm = nn.LayerNorm(8, device="meta" if missing == "norm" else "cpu")
    residual = x.to("meta") if missing == "residual" else x
    assert fused(norm, Dropout(0.1), x, residual) is None


def test_what_is_ordinary() -> None:
    x = torch.zeros(3)
    assert are_ordinary(x, nn.Parameter(x))
    assert not are_ordinary(x, x.to("meta"))
    assert not are_ordinary(x.to("meta"))
    assert not are_ordinary(TwoTensor(x, x))
    with FakeTensorMode():
        assert not are_ordinary(torch.zeros(3))


def test_what_is_recorded() -> None:
    seen = []

    def look(x: torch.Tensor) -> torch.Tensor:
        seen.append(is_recorded())
        return x * 2

    look(torch.ones(3))
    torch.vmap(look)(torch.ones(3))
    torch.jit.trace(look, torch.ones(3), check_trace=False)
    assert seen == [False, True, True]


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("part", ["forward", "backward"])
def test_who_only_counts_changes_nothing(reentrant: bool, part: str) -> None:
    """Seen in one of a layer's two forward passes: both have to drop the same."""
    net = build(hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2).train()

    def gradient(counted: str) -> torch.Tensor:
        net.zero_grad()
        torch.manual_seed(3)
        with FlopCounterMode(display=False) if counted == "forward" else nullcontext():
            loss = net(ids(2, 9)).last_hidden_state.square().sum()
        with FlopCounterMode(display=False) if counted == "backward" else nullcontext():
            loss.backward()
        return net.encoder.layer[0].attention.self.query.weight.grad.clone()

    expected = gradient("")
    net.gradient_checkpointing_enable({"use_reentrant": reentrant})
    torch.testing.assert_close(gradient(part), expected, **CLOSE)


@NETWORKS
def test_dual_numbers(attention: str) -> None:
    net, x, direction = encoder(attention), embedded(0, 2, 9), embedded(1, 2, 9)
    with torch.no_grad():
        _, expected = torch.func.jvp(net, (x,), (direction,))
        with forward_ad.dual_level():
            found = forward_ad.unpack_dual(net(forward_ad.make_dual(x, direction))).tangent
    torch.testing.assert_close(found, expected, **CLOSE)
