"""Workers that share a fine-tuning do what one worker does."""

import pytest
import torch

from pipeline.cluster.peers import PeerFailed
from pipeline.finetuning.training import train
from pipeline.finetuning.workers import ALONE, Workers
from pipeline.settings.finetuning import FinetuneSettings
from tests.pipeline.finetuning.in_process import model_and_sets
from tests.pipeline.training import spawn


def after_training(export, values):
    """Weights, epochs and dev answers of this process, alone or as one of a group."""
    settings = FinetuneSettings.model_validate(values)
    workers = Workers.of_process()
    model, sets = model_and_sets(export, settings, workers.rank)  # the first one's weights count
    workers.start_alike(model.network, 0)
    shown = []
    result = train(model, settings, 1, sets, shown.append, shown.append, workers)
    return model.network.state_dict(), result.epochs, result.answers


@pytest.mark.parametrize(
    ("task", "number", "more"),
    [
        ("classification", 2, {"label_weights": {"1": 3.0}, "micro_batch": 3}),
        ("ner", 3, {"label_weights": "balanced", "patience": 1}),
        ("choice", 2, {}),
        ("span", 3, {}),
        ("similarity", 2, {"clip": 0.1}),
    ],
)
def test_several_workers_give_the_result_of_one(task, number, more, export, data):
    """Also with a last batch of one example, of which some workers have no part."""
    values = {"task": task, "lr": 1e-3, "batch": 16, "dropout": 0.0, "epochs": 2}
    values |= {"precision": "fp32", "data": data[task] | {"length": 48, "examples": 33}} | more
    given = str(export), values
    torch.set_num_threads(1)
    weights, epochs, answers = after_training(*given)
    found = spawn.run(number, after_training, *given)
    for rank, (own_weights, own_epochs, own_answers) in enumerate(found):
        # The workers agree to the last bit, and with one worker to rounding.
        assert all(torch.equal(own_weights[name], found[0][0][name]) for name in weights)
        assert (own_epochs, own_answers) == (found[0][1], found[0][2])
        assert [each["loss"] for each in own_epochs] == pytest.approx(
            [each["loss"] for each in epochs], rel=1e-4
        ), rank
        assert len(own_answers) == len(answers)
    # Softmax does not see these biases: their gradient is rounding, which Adam scales up. That of
    # a span, over positions, does not see what is added to the vectors of all of them either.
    unseen = ["key.bias", "classifier.bias", "qa_outputs.bias"]
    unseen += ["layer.1.output.LayerNorm.bias"] if task == "span" else []
    for name, tensor in weights.items():
        if not name.endswith(tuple(unseen)):
            assert torch.allclose(tensor, found[0][0][name], atol=2e-4), name


def what_is_drawn():
    workers, network = Workers.of_process(), torch.nn.Linear(2, 2)
    torch.manual_seed(workers.rank)
    torch.nn.init.normal_(network.weight)
    workers.start_alike(network, 7)
    return network.weight, torch.rand(3)


def test_workers_start_from_one_network_and_draw_dropout_of_their_own():
    (first, drawn), (second, other) = spawn.run(2, what_is_drawn)
    assert torch.equal(first, second)
    assert not torch.equal(drawn, other)
    alone = what_is_drawn()
    assert torch.equal(alone[0], first)
    assert torch.equal(alone[1], drawn)


def sums_and_shares():
    workers, network = Workers.of_process(), torch.nn.Linear(2, 1)
    network.weight.grad = torch.full((1, 2), 1.0 + workers.rank)
    loss = workers.add_up(network, torch.tensor(10.0 * workers.rank))
    own = workers.share("abcdefg")
    return loss, network.weight.grad, network.bias.grad, own, workers.collect(own.upper())


def test_gradients_are_added_and_shares_come_back_in_order():
    for rank, (loss, gradient, bias, own, whole) in enumerate(spawn.run(3, sums_and_shares)):
        assert loss == 30.0
        assert gradient.tolist() == [[6.0, 6.0]]
        assert bias is None  # what has no gradient is not trained, as with one worker
        assert own == ("adg", "be", "cf")[rank]
        assert whole == list("ABCDEFG")


def test_one_worker_takes_all():
    assert ALONE.share([1, 2]) == [1, 2]
    assert ALONE.collect([1, 2]) == [1, 2]


def wait_for_the_other():
    workers = Workers.of_process()
    if workers.rank == 1:
        return "gone"
    with pytest.raises(PeerFailed, match="the connection to other workers broke"):
        workers.collect([1])
    return "noticed"


def test_a_worker_notices_that_another_is_gone():
    assert spawn.run(2, wait_for_the_other) == ["noticed", "gone"]
