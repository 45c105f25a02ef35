"""The kernels are operators of torch: tracers, compilers and tensor subclasses know them."""

from contextlib import nullcontext

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils.flop_counter import FlopCounterMode

from model.attention.definition import position_table
from model.attention.tiled import cpu_attention, cpu_attention_backward
from model.attention.triton_attention import triton_attention, triton_attention_backward
from model.fused.cross_entropy import cross_entropy
from model.fused.dropout import cpu_dropout, kernel_seed
from tests.model.test_modeling import CLOSE, SIZES, build, ids

NETWORKS = pytest.mark.parametrize("attention", ["eager", "sdpa"])
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SEED = torch.tensor(7)


def drawn(*shape: int, device: str = "cpu") -> torch.Tensor:
    return torch.randn(shape, device=device).requires_grad_()


def attention_cases(dropout: float, masked: bool):
    """Operands of both attentions and of their backward passes."""
    q, k, v = (drawn(2, 5, 16) for _ in range(3))
    mask = torch.randn(1, 1, 1, 5) if masked else None
    seed = SEED if dropout else None
    flat = q, k, v, position_table(16, 3), mask, 2, dropout, 0, 0.25, seed
    yield cpu_attention, flat
    yield cpu_attention_backward, (torch.randn(2, 5, 16), *(_detached(flat)))
    # A bias, or sequences that are packed
    rows, tokens = (2, 5) if masked else (1, 9)
    q, k, v = (drawn(rows, tokens, 2, 16, device=DEVICE).transpose(1, 2) for _ in range(3))
    bias = torch.randn(2, 5, device=DEVICE) if masked else None
    starts = None if masked else torch.tensor([0, 2, 9], dtype=torch.int32, device=DEVICE)
    rest = bias, starts, 3, 7, dropout, 0, 0.25, seed
    yield triton_attention, (q, k, v, *rest)
    out, lse = triton_attention(*_detached((q, k, v)), *rest)
    yield (
        triton_attention_backward,
        (torch.randn_like(out), *_detached((q, k, v)), out, lse, *rest),
    )


def _detached(values):
    return [x.detach() if isinstance(x, torch.Tensor) else x for x in values]


def fused_cases():
    yield cpu_dropout, (drawn(3, 5), 0.25, SEED)
    yield cpu_dropout, (drawn(1, 3, 5), 0.25, torch.tensor([[7, 0, 1], [7, 1, 2]]))
    labels = torch.randint(11, (6,))
    yield kernel_seed, (torch.ones(3),)
    yield cross_entropy, (drawn(6, 4), drawn(11, 4), drawn(11), labels, True)
    yield cross_entropy, (*_detached((drawn(6, 4), drawn(11, 4), drawn(11))), labels, False)


CASES = [*attention_cases(0.0, False), *attention_cases(0.25, True), *fused_cases()]


@pytest.mark.parametrize(("operator", "inputs"), CASES, ids=lambda x: getattr(x, "_name", ""))
def test_opcheck(operator, inputs) -> None:
    torch.library.opcheck(operator, inputs)


def test_opcheck_has_seen_all_operators() -> None:
    """A copy of the code, of an export, has operators with a number."""
    names = {name.split("::")[1] for name in torch._C._dispatch_get_all_op_names()
             if name.startswith("nezha::")}  # fmt: skip
    ours = {name for name in names if not name.rsplit("_", 1)[-1].isdigit()}
    assert ours == {operator._name for operator, _ in CASES}


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


def test_eager_is_mapped_over_a_dimension() -> None:
    net, x = encoder("eager"), embedded(0, 3, 2, 9)
    with torch.no_grad():
        expected = torch.stack([net(one) for one in x])
        torch.testing.assert_close(torch.vmap(net)(x), expected, **CLOSE)


def test_eager_is_mapped_in_training() -> None:
    """Dropout then is that of torch, which draws for each entry."""
    net = build(hidden_dropout_prob=0.2, attn_implementation="eager").train()
    mapped = torch.vmap(lambda x: net(inputs_embeds=x).last_hidden_state, randomness="different")
    first, second = mapped(embedded(0, 1, 2, 9).expand(2, -1, -1, -1))
    assert (first - second).abs().max() > 0.1


def test_eager_has_forward_derivatives() -> None:
    net, x, direction = encoder("eager"), embedded(0, 2, 9), embedded(1, 2, 9)
    with torch.no_grad():
        _, found = torch.func.jvp(net, (x,), (direction,))
        near = (net(x + 1e-2 * direction) - net(x - 1e-2 * direction)) / 2e-2
    torch.testing.assert_close(found, near, rtol=1e-2, atol=1e-2)


def second_derivative(attention: str) -> torch.Tensor:
    net, x = encoder(attention), embedded(0, 1, 5).requires_grad_()
    (first,) = torch.autograd.grad(net(x).square().sum(), x, create_graph=True)
    return torch.autograd.grad(first.square().sum(), x)[0]


def test_eager_has_second_derivatives() -> None:
    assert second_derivative("eager").abs().max() > 0


def _dual(net, x: torch.Tensor) -> torch.Tensor:
    with forward_ad.dual_level():
        return net(forward_ad.make_dual(x, x))


@pytest.mark.parametrize(
    "use",
    [
        lambda net, x: torch.vmap(net)(x[None]),
        lambda net, x: torch.func.jvp(net, (x,), (x,)),
        lambda net, x: torch.func.grad(lambda y: net(y).sum())(x),
        _dual,
        lambda net, x: second_derivative("sdpa"),
    ],
    ids=["vmap", "jvp", "grad", "dual numbers", "second derivative"],
)
def test_what_operators_do_not_know_asks_for_eager(use) -> None:
    with pytest.raises(RuntimeError, match="attn_implementation='eager'"):
        use(encoder("sdpa"), embedded(0, 2, 9))


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("part", ["forward", "backward"])
def test_a_mode_that_counts_changes_nothing(reentrant: bool, part: str) -> None:
    """It may be active in one of a layer's two forward passes: both have to drop the same."""
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
