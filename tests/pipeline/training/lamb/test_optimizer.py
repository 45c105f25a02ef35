"""LAMB against references, whatever fragments and blocks the parameters are divided into."""

import importlib
import importlib.util
import sys
import types

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.errors import ConfigError
from pipeline.training import engine
from pipeline.training.lamb import fragments
from pipeline.training.lamb import optimizer as lamb
from pipeline.training.lamb import steps as lamb_steps
from tests.pipeline.training import networks, spawn
from tests.pipeline.training.lamb.reference_lamb import ReferenceLamb

STAGES = (1, 2, 3)
SHAPES = [(7, 5), (11,), (3, 4, 2), (1, 1), (9,)]


def weights_and_gradients(steps, dtype=torch.float32, scale=1.0):
    generator = torch.Generator().manual_seed(3)
    weights = [
        torch.randn(shape, generator=generator, dtype=dtype, device="cpu") for shape in SHAPES
    ]
    gradients = [
        [
            scale * torch.randn(shape, generator=generator, dtype=dtype, device="cpu")
            for shape in SHAPES
        ]
        for _ in range(steps)
    ]
    return weights, gradients


def run(weights, gradients, make, clip=0.0):
    parameters = nn.ParameterList([weight.clone() for weight in weights])
    optimizer = make(lamb.parameter_groups(parameters, 0.1))
    for step, step_gradients in enumerate(gradients):
        for parameter, gradient in zip(parameters, step_gradients, strict=True):
            parameter.grad = gradient.clone()
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (step + 1)
        if clip:
            nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
    return [parameter.detach() for parameter in parameters], optimizer


def reference(weights, gradients, clip=0.0, adapt=True):
    slow = ReferenceLamb(
        {str(i): weight for i, weight in enumerate(weights)}, weight_decay=0.1, adapt=adapt
    )
    for step, step_gradients in enumerate(gradients):
        named = {str(i): gradient for i, gradient in enumerate(step_gradients)}
        slow.step(named, 0.01 * (step + 1), clip)
    return list(slow.weights.values())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_it_is_the_papers_update(dtype, tolerance, clip):
    weights, gradients = weights_and_gradients(20, dtype)
    ours, _ = run(weights, gradients, lamb.Lamb, clip)
    for mine, slow in zip(ours, reference(weights, gradients, clip), strict=True):
        torch.testing.assert_close(mine.double(), slow, rtol=0, atol=tolerance)


def test_it_agrees_with_timm():
    """Loads its LAMB module alone: the whole package needs torchvision."""
    found = importlib.util.find_spec("timm")
    if found is None or not found.submodule_search_locations:
        pytest.skip("timm is not installed: pip install --no-deps timm==1.0.31")
    root = found.submodule_search_locations[0]
    names = {"timm": root, "timm.optim": f"{root}/optim"}
    for name, path in names.items():
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [path]
    try:
        other = importlib.import_module("timm.optim.lamb").Lamb
    finally:
        for name in names:
            sys.modules.pop(name)
    # timm takes the ratio where there is decay, and has no `trust_ratio`.
    for dtype, steps, tolerance in ((torch.float64, 50, 1e-12), (torch.float32, 20, 1e-6)):
        weights, gradients = weights_and_gradients(steps, dtype)
        ours, _ = run(weights, gradients, lamb.Lamb)
        theirs, _ = run(weights, gradients, lambda groups: other(groups, max_grad_norm=None))
        for mine, timms in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, timms, rtol=0, atol=tolerance)


def test_without_ratio_it_is_adamw():
    weights, gradients = weights_and_gradients(20)

    def plain(groups):
        return lamb.Lamb([{**group, "trust_ratio": False} for group in groups])

    ours, _ = run(weights, gradients, plain)
    theirs, _ = run(weights, gradients, lambda groups: torch.optim.AdamW(groups, eps=1e-6))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-6)


def test_an_update_does_not_depend_on_the_scale_of_the_gradient():
    """LAMB's point: only the direction counts (up to eps)."""
    weights, gradients = weights_and_gradients(5, torch.float64)
    ours, _ = run(weights, gradients, lambda groups: lamb.Lamb(groups, eps=1e-30))
    scaled = [[1e3 * gradient for gradient in step] for step in gradients]
    theirs, _ = run(weights, scaled, lambda groups: lamb.Lamb(groups, eps=1e-30))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-12)


@given(weight=st.floats(0, 1e6), update=st.floats(0, 1e6))
def test_trust_ratios(weight, update):
    squares = torch.tensor([[weight], [update]], dtype=torch.float64).square()
    ratio = lamb_steps.trust_ratios(squares).item()
    norm, other = squares.sqrt().flatten().tolist()
    assert ratio == pytest.approx(norm / other if norm and other else 1.0)


def flat_steps(weight, gradients, parts, length):
    """Weights after steps on a flat tensor of NaN with fragments of one parameter in it."""
    flat = torch.full((length,), float("nan"))
    parameter = nn.Parameter(flat)
    for _, start, place, size in parts:
        flat[place : place + size] = weight.flatten()[start : start + size]
    optimizer = lamb.Lamb([parameter], weight_decay=0.1)
    described = fragments.FlatTensor(parameter, ("w",), (weight.shape,), tuple(parts))
    optimizer._slices = {parameter: lamb_steps.Slices.of(described)}
    for step, (gradient, *_) in enumerate(gradients):
        parameter.grad = torch.full_like(flat, float("nan"))
        for _, start, place, size in parts:
            parameter.grad[place : place + size] = gradient.flatten()[start : start + size]
        optimizer.param_groups[0]["lr"] = 0.01 * (step + 1)
        optimizer.step()
    moved = torch.full_like(weight, float("nan")).flatten()
    for _, start, place, size in parts:
        moved[start : start + size] = parameter.detach()[place : place + size]
    return moved.view(weight.shape)


@settings(max_examples=30, deadline=None)
@given(
    block=st.integers(1, 40),
    cuts=st.lists(st.integers(0, 35), max_size=3).map(sorted),
    gaps=st.lists(st.integers(0, 3), min_size=4, max_size=4),
)
def test_neither_blocks_nor_fragments_change_a_step(block, cuts, gaps):
    """Fragments of one parameter anywhere in a flat tensor, with NaN as padding between them."""
    (weight, *_), gradients = weights_and_gradients(3)
    whole, _ = run([weight], [step[:1] for step in gradients], lamb.Lamb)
    bounds = [0, *cuts, weight.numel()]
    parts, offset = [], gaps[0]
    for start, end, gap in zip(bounds[:-1], bounds[1:], gaps[: len(cuts) + 1], strict=True):
        if end > start:
            parts.append(fragments.Fragment(0, start, offset, end - start))
        offset += end - start + gap
    previous, lamb_steps.BLOCK = lamb_steps.BLOCK, block
    try:
        moved = flat_steps(weight, gradients, parts, offset)
    finally:
        lamb_steps.BLOCK = previous
    torch.testing.assert_close(moved, whole[0], rtol=0, atol=1e-6)


def test_zero_weights_and_zero_gradients():
    parameter = nn.Parameter(torch.zeros(3, 3))
    parameter.grad = torch.ones(3, 3)
    optimizer = lamb.Lamb([parameter], lr=0.1)
    optimizer.step()
    torch.testing.assert_close(parameter.detach(), torch.full((3, 3), -0.1))
    parameter = nn.Parameter(torch.ones(3, 3))
    parameter.grad = torch.zeros(3, 3)
    lamb.Lamb([parameter], lr=0.1, weight_decay=0.0).step()
    assert torch.equal(parameter.detach(), torch.ones(3, 3))


def test_parameters_may_miss_gradients_and_lie_in_any_order():
    torch.manual_seed(0)
    late, turned = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(5, 3).t())
    start = [late.detach().clone(), turned.detach().clone()]
    optimizer = lamb.Lamb([late, turned], lr=0.1)
    turned.grad = torch.ones(3, 5)
    optimizer.step()
    assert torch.equal(late.detach(), start[0])
    late.grad = torch.ones(4, 4)
    optimizer.step()
    assert (optimizer.state[late]["step"], optimizer.state[turned]["step"]) == (1, 2)
    slow = ReferenceLamb({"w": start[1]})
    for _ in range(2):
        slow.step({"w": torch.ones(3, 5)}, 0.1)
    torch.testing.assert_close(turned.detach().double(), slow.weights["w"], rtol=0, atol=1e-6)


def test_half_precision_weights_are_refused():
    parameter = nn.Parameter(torch.ones(2, 2, dtype=torch.bfloat16))
    parameter.grad = torch.ones_like(parameter)
    with pytest.raises(TypeError, match="fp32 master weights"):
        lamb.Lamb([parameter]).step()


def test_ratios_tell_what_a_step_did():
    weights, gradients = weights_and_gradients(1)
    ours, optimizer = run(weights, gradients, lamb.Lamb)
    ratios = optimizer.ratios()
    matrices = [i for i, weight in enumerate(weights) if weight.ndim > 1]
    assert len(ratios) == len(matrices)
    for i, ratio in zip(matrices, ratios, strict=True):
        assert ratio.weight_norm == pytest.approx(weights[i].norm().item(), rel=1e-6)
        assert ratio.trust_ratio == pytest.approx(ratio.weight_norm / ratio.update_norm, rel=1e-6)
        change = (ours[i] - weights[i]).norm().item()
        assert 0.01 * ratio.trust_ratio * ratio.update_norm == pytest.approx(change, rel=1e-4)


# Under DeepSpeed. The plain loop makes the same steps with whole parameters in one process.


def sharded(stage, precision, accumulation, clip, offload=False):
    values = {
        "engine": {"zero_stage": stage, "offload": offload},
        "optim": {"lr": 0.02, "clip": clip, "weight_decay": 0.1},
    }
    worker = networks.make_engine(values, accumulation=accumulation, precision=precision)
    networks.train(worker, range(20))
    return networks.full_state_dict(worker), engine.optimizer_of(worker).ratios()


def sharded_all(cases):
    return [sharded(*case) for case in cases]


def sharded_as_on_a_gpu(cases):
    pretend_gpu()
    return sharded_all(cases)


def pretend_gpu():
    """Let the CPU compute in fp16 and offload to itself, with the code that a GPU would use."""
    from deepspeed.accelerator import get_accelerator

    type(get_accelerator()).is_fp16_supported = lambda self: True
    engine.check = lambda config, device: None


def largest_difference(one, other):
    return max((one[name] - other[name]).abs().max().item() for name in one)


@pytest.mark.parametrize(("world_size", "accumulation"), [(1, 4), (2, 2), (4, 1)])
def test_zero_makes_the_steps_of_a_plain_loop(world_size, accumulation):
    """The plain loop always sums four micro-batches: the split changes nothing."""
    cases = [
        (stage, precision, accumulation, clip)
        for precision in ("fp32", "bf16")
        for stage in STAGES
        for clip in (0.0, 0.3)
    ]
    results = spawn.run(world_size, sharded_all, cases)
    references = {
        key: networks.plain_loop(*key)[20]
        for key in {(precision, clip) for _, precision, _, clip in cases}
    }
    for case, (weights, ratios) in zip(cases, results[0], strict=True):
        _, precision, _, clip = case
        difference = largest_difference(weights, references[precision, clip])
        assert difference < 2e-5, (case, difference)
        assert {ratio.name for ratio in ratios} == {"first.weight", "second.weight", "last.weight"}
    for rank in range(1, world_size):
        assert [ratios for _, ratios in results[rank]] == [ratios for _, ratios in results[0]]


@pytest.mark.parametrize("world_size", [1, 2])
def test_offload_and_fp16_change_nothing(world_size):
    cases = [
        (stage, precision, 4 // world_size, 0.3, offload)
        for precision in ("fp32", "bf16", "fp16")
        for stage in STAGES
        for offload in (False, True)
        if offload or precision == "fp16"
    ]
    results = spawn.run(world_size, sharded_as_on_a_gpu, cases)[0]
    scales = {"fp32": 1.0, "bf16": 1.0, "fp16": 2.0**16}
    references = {
        precision: networks.plain_loop(precision, 0.3, loss_scale=scale)[20]
        for precision, scale in scales.items()
    }
    for case, (weights, _) in zip(cases, results, strict=True):
        difference = largest_difference(weights, references[case[1]])
        # Dividing by loss scale and clip at once rounds otherwise, and fp16 weights may flip.
        assert difference < (3e-4 if case[1] == "fp16" else 2e-5), (case, difference)


def test_a_step_that_overflows_is_skipped():
    spawn.run(1, overflow)


def overflow():
    pretend_gpu()
    for stage in STAGES:
        worker = networks.make_engine({"engine": {"zero_stage": stage}}, precision="fp16")
        before = networks.full_state_dict(worker)
        worker.optimizer.loss_scaler.cur_scale = 2.0**60
        networks.train(worker, range(1))
        after = networks.full_state_dict(worker)
        states = engine.optimizer_of(worker).state.values()
        assert largest_difference(before, after) == 0
        assert {state["step"] for state in states} == {0}
        assert (worker.skipped_steps, engine.gradient_norm(worker)) == (1, float("inf"))
        worker.optimizer.loss_scaler.cur_scale = 2.0**16
        networks.train(worker, range(1))
        assert {state["step"] for state in states} == {1}


def test_what_cannot_be_exact_is_refused():
    spawn.run(1, refusals)


def refusals():
    worker = networks.make_engine({"engine": {"zero_stage": 1}})
    worker.optimizer.round_robin_gradients = True
    with pytest.raises(ConfigError, match="round_robin"):
        lamb.bind(engine.optimizer_of(worker), worker)


def test_padding_of_stage_3_is_in_no_norm():
    spawn.run(2, garbage_in_the_padding)


def garbage_in_the_padding():
    """Huge numbers in the padding change neither ratios nor weights."""
    outcomes = []
    for filling in (0.0, 1e30):
        worker = networks.make_engine({"engine": {"zero_stage": 3}, "optim": {"lr": 0.02}})
        for flat in fragments.locate(worker):
            flat.tensor.data[networks.padding(flat)] = filling
        networks.train(worker, range(3))
        weights = networks.full_state_dict(worker)
        outcomes.append((weights, engine.optimizer_of(worker).ratios()))
    assert outcomes[0][1] == outcomes[1][1]
    if torch.distributed.get_rank() == 0:
        assert largest_difference(outcomes[0][0], outcomes[1][0]) == 0
