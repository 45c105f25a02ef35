"""The Triton kernels of LAMB; on a machine without a GPU in the interpreter."""

import pytest
import torch
from torch import nn

from pipeline.training.lamb import fragments
from pipeline.training.lamb import kernels as lamb_kernels
from pipeline.training.lamb import optimizer as lamb
from tests.machine_code import compiled, elsewhere
from tests.pipeline.training import networks, spawn
from tests.pipeline.training.lamb import test_optimizer as cases

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def with_kernels(monkeypatch):
    """Use the kernels on any device, with chunks so small that parameters have several."""
    made = []

    class Counted(lamb_kernels.KernelStep):
        def __init__(self, *arguments) -> None:
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(lamb_kernels, "CHUNK", 16)
    monkeypatch.setattr(lamb_kernels, "KernelStep", Counted)
    monkeypatch.setattr(lamb, "_kernels", lambda _: lamb_kernels)
    with torch.device(DEVICE):
        yield made


def on_device(weights, gradients):
    moved = [[tensor.to(DEVICE) for tensor in tensors] for tensors in (weights, *gradients)]
    return moved[0], moved[1:]


def test_it_is_the_papers_update(with_kernels) -> None:
    weights, gradients = cases.weights_and_gradients(10)
    ours, _ = cases.run(*on_device(weights, gradients), lamb.Lamb)
    assert len(with_kernels) == 20  # two groups in each step
    for mine, exact in zip(ours, cases.reference(weights, gradients), strict=True):
        torch.testing.assert_close(mine.cpu().double(), exact, rtol=0, atol=2e-6)


def test_fragments_in_a_flat_tensor(with_kernels) -> None:
    (weight, *_), gradients = cases.weights_and_gradients(3)
    parts = [fragments.Fragment(0, 20, 3, 15), fragments.Fragment(0, 0, 19, 20)]
    (weight,), gradients = on_device([weight], [step[:1] for step in gradients])
    whole, _ = cases.run([weight], gradients, lamb.Lamb)
    moved = cases.flat_steps(weight, gradients, parts, 45)
    assert len(with_kernels) == 6
    torch.testing.assert_close(moved, whole[0], rtol=0, atol=1e-6)


def test_a_rank_may_hold_nothing_but_padding(with_kernels) -> None:
    (weight, *_), gradients = cases.weights_and_gradients(1)
    (weight,), gradients = on_device([weight], [step[:1] for step in gradients])
    assert cases.flat_steps(weight, gradients, [], 7).isnan().all()
    assert with_kernels[0].squares.tolist() == [[0.0], [0.0]]


def test_a_step_always_gives_the_same_result(with_kernels) -> None:
    weights, gradients = on_device(*cases.weights_and_gradients(3))
    first, second = (cases.run(weights, gradients, lamb.Lamb)[0] for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_tensors_with_gaps_are_left_to_torch(with_kernels) -> None:
    parameter = nn.Parameter(torch.randn(5, 3).t())
    parameter.grad = torch.ones(3, 5)
    before = parameter.detach().clone()
    lamb.Lamb([parameter], lr=0.1).step()
    assert not with_kernels
    assert (parameter.detach() < before).all()


def sharded_by_kernels(runs):
    lamb._kernels = lambda _: lamb_kernels
    return cases.sharded_all(runs)


@pytest.mark.skipif(DEVICE != "cpu", reason="the ranks train on the CPU, in the interpreter")
def test_zero_makes_the_steps_of_a_plain_loop() -> None:
    runs = [(stage, "fp32", 2, 0.3) for stage in cases.STAGES]
    expected = networks.plain_loop("fp32", 0.3)[20]
    for weights, _ in spawn.run(2, sharded_by_kernels, runs)[0]:
        assert cases.largest_difference(weights, expected) < 2e-5


@pytest.mark.slow
def test_they_compile_for_gpus_that_this_machine_lacks() -> None:
    assert elsewhere("tests.pipeline.training.lamb.test_kernels") == 6


def compile_all() -> int:
    kinds = dict.fromkeys(("chunks_ptr", "addresses_ptr", "bounds_ptr"), "*i64")
    kinds |= {"squares_ptr": "*fp64", "parameters": "i32"}
    constants = {"WITH_RATIO": True, "CHUNK": lamb_kernels.CHUNK}
    done = 0
    for name in ("update_moments", "sum_chunks", "apply"):
        kernel = getattr(lamb_kernels, f"{name}_kernel")
        others = {x: "*fp32" if x.endswith("_ptr") else "fp32" for x in kernel.arg_names}
        for capability in (80, 90):
            compiled(kernel, others | kinds, constants, capability, lamb_kernels.WARPS)
            done += 1
    return done


if __name__ == "__main__":
    print(compile_all())
