"""The gradient of a batch, with R-Drop and adversarial examples."""

import pytest
import torch
from torch.nn import functional as F

from pipeline.finetuning import network as networks
from pipeline.finetuning.examples.data import read_examples
from pipeline.finetuning.examples.features import collate
from pipeline.finetuning.judging.evaluation import Dataset
from pipeline.finetuning.regularizers import adversarial, divergence_sum
from pipeline.finetuning.step import Step
from pipeline.finetuning.tasks import TASKS
from pipeline.finetuning.tasks.base import TaskSetup
from pipeline.settings.finetuning import FinetuneSettings
from tests.pipeline.finetuning.conftest import MAKERS

CPU = torch.device("cpu")


def a_step(export, data, task, examples=12, **more):
    """Network, features and step of a task; the features differ in length."""
    values = {"task": task, "dropout": 0.0, "precision": "fp32", "batch": 64} | more
    settings = FinetuneSettings.model_validate(values | {"data": data[task] | {"length": 48}})
    tokenizer = networks.load_tokenizer(str(export))
    found = read_examples(settings, tokenizer)
    setup = TaskSetup(tokenizer, found.labels, 48)
    dataset = Dataset.of(TASKS[task], found.sets["train"][:examples], setup)
    torch.manual_seed(0)
    network = networks.build(TASKS[task], str(export), found.labels, settings.dropout, False)
    network.train()
    return network, dataset, Step(TASKS[task], network, settings, setup, dataset, CPU)


def gradients(network, dataset, step, scale=1.0):
    """The loss and the gradient of all parameters, as the optimizer would see it."""
    network.zero_grad()
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=scale != 1.0)
    torch.manual_seed(5)
    loss = step.backward(dataset.features, scaler)
    given = [each.grad for each in network.parameters() if each.grad is not None]
    return loss, torch.cat([each.flatten() for each in given]) / scale


def slow_divergence(first, second, target, weights):
    """½ [KL(p, q) + KL(q, p)] of each target, one class at a time."""
    total = 0.0
    for p, q, y in zip(first.flatten(0, -2), second.flatten(0, -2), target.flatten(), strict=True):
        if y == -100:
            continue
        p, q = p.double().softmax(0), q.double().softmax(0)
        for a, b in zip(p, q, strict=True):
            if a > 0 and b > 0:
                both = a * (a / b).log() + b * (b / a).log()
                total = total + both / 2 * (1 if weights is None else weights[y])
    return total


@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 0.5, 3.0])])
def test_the_divergence_is_the_mean_of_both_directions(weights):
    torch.manual_seed(0)
    first, second = torch.randn(4, 5, 3), torch.randn(4, 5, 3)
    target = torch.randint(3, (4, 5)).masked_fill(torch.rand(4, 5) < 0.3, -100)
    expected = slow_divergence(first, second, target, weights)
    assert divergence_sum(first, second, target, weights).item() == pytest.approx(expected.item())
    assert divergence_sum(first, first, target, weights) == 0


def test_the_divergence_leaves_out_padded_choices_and_has_a_gradient():
    first = torch.tensor([[1.0, 2.0, torch.finfo().min]], requires_grad=True)
    second = torch.tensor([[0.0, 2.5, torch.finfo().min]])
    found = divergence_sum(first, second, torch.tensor([1]))
    expected = divergence_sum(first[:, :2], second[:, :2], torch.tensor([1]))
    assert found.item() == pytest.approx(expected.item())
    found.backward()
    assert first.grad.isfinite().all()


@pytest.mark.parametrize("task", MAKERS)
def test_r_drop_is_the_mean_loss_of_two_passes_and_what_they_differ_by(task, export, data):
    """Against the same two passes, with torch's own losses."""
    network, dataset, step = a_step(export, data, task, dropout=0.3, r_drop=2.0)
    loss, found = gradients(network, dataset, step)
    batch = collate(dataset.features, 0, TASKS[task].multiple_choice)
    network.zero_grad()
    torch.manual_seed(5)
    first, second = (networks.forward(TASKS[task], network, batch, CPU, "fp32") for _ in range(2))
    assert not torch.equal(first, second)
    target, pair = batch.target, (first, second)
    if target.is_floating_point():
        losses = [F.mse_loss(each, target) for each in pair]
        apart = F.mse_loss(first, second)
    else:
        losses = [
            F.cross_entropy(each.flatten(0, -2), target.flatten()) for each in (first, second)
        ]
        apart = slow_divergence(first, second, target, None) / (target != -100).sum()
    expected = sum(losses) / 2 + 2.0 * apart
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    expected.backward()
    given = [each.grad for each in network.parameters() if each.grad is not None]
    reference = torch.cat([each.flatten() for each in given])
    assert torch.allclose(found, reference, atol=1e-5 * reference.norm())


def slow_adversarial(network, dataset, task, epsilon):
    """One example at a time, without padding: the gradient of the sums of both losses."""
    words, total, count = network.get_input_embeddings(), 0.0, 0
    for feature in dataset.features:
        batch = collate([feature], 0, TASKS[task].multiple_choice)
        inputs = batch.inputs
        kept = inputs["input_ids"]
        embedded = words(kept.flatten(0, -2)).view(*kept.shape, -1)
        others = {key: inputs[key] for key in inputs if key != "input_ids"}

        def loss_at(embeddings, batch=batch, others=others, inputs=inputs):
            output = network(inputs_embeds=embeddings, **others)
            logits = TASKS[task].logits(output, batch)
            if batch.target.is_floating_point():
                return F.mse_loss(logits.flatten(), batch.target.flatten(), reduction="sum")
            return F.cross_entropy(logits.flatten(0, -2), batch.target.flatten(), reduction="sum")

        loss = loss_at(embedded)
        (gradient,) = torch.autograd.grad(loss, embedded, retain_graph=True)
        total = total + loss + loss_at(embedded + epsilon * gradient / gradient.norm())
        count += int(torch.numel(batch.target) - (batch.target == -100).sum())
    network.zero_grad()
    (total / count).backward()
    given = [each.grad for each in network.parameters() if each.grad is not None]
    return torch.cat([each.flatten() for each in given])


@pytest.mark.parametrize("task", MAKERS)
@pytest.mark.parametrize(("micro_batch", "scale"), [(0, 1.0), (5, 1.0), (5, 2.0**16)])
def test_adversarial_examples_are_those_of_each_example_alone(
    task, micro_batch, scale, export, data
):
    """However a batch is split, and whatever a loss is scaled by."""
    network, dataset, step = a_step(export, data, task, fgm=0.5, micro_batch=micro_batch)
    _, found = gradients(network, dataset, step, scale)
    reference = slow_adversarial(network, dataset, task, 0.5)
    assert torch.allclose(found, reference, atol=2e-4 * reference.norm())
    plain = gradients(*a_step(export, data, task))[1]
    assert (found - 2 * plain).norm() > 0.01 * plain.norm()


def test_a_move_has_its_length_however_small_the_gradient_is():
    gradient = torch.randn(3, 4, 2)
    gradient[1] *= 1e-30
    gradient[2] = 0
    move = adversarial(gradient, 0.7)
    assert move.flatten(1).norm(dim=1).tolist() == pytest.approx([0.7, 0.7, 0.0])
    gradient[0, 0, 0] = torch.inf  # fp16 then skips the step
    assert move.isfinite().all()
    assert not adversarial(gradient, 0.7)[0].isfinite().all()


@pytest.mark.parametrize("more", [{"r_drop": 1.0, "dropout": 0.2}, {"fgm": 1.0}])
def test_without_them_nothing_is_moved_and_the_step_is_the_plain_one(more, export, data):
    """A step with them leaves nothing behind in the network."""
    network, dataset, step = a_step(export, data, "pair", **more)
    gradients(network, dataset, step)
    network.eval()
    ids = torch.tensor([[3, 4, 5]])
    words = network.get_input_embeddings()
    assert torch.equal(words(ids), words.weight[ids])


def test_both_together(export, data):
    """The adversarial examples are those of R-Drop's loss."""
    more = {"dropout": 0.2, "r_drop": 1.0}
    alone = gradients(*a_step(export, data, "pair", **more))
    both = gradients(*a_step(export, data, "pair", **more, fgm=0.5))
    assert both[0] == alone[0]
    assert not torch.allclose(both[1], alone[1])
