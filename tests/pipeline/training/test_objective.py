import numpy as np
import pytest
import torch

from model import NezhaConfig, NezhaForPreTraining
from model.fused.dropout import masks_by_sample
from pipeline.feed.collate import BY_SAMPLE, Batch
from pipeline.training.objective import PretrainingObjective, summarize, to_device

CPU = torch.device("cpu")
VOCABULARY, LENGTH = 50, 12


def network(vocabulary: int = VOCABULARY, dropout: float = 0.0) -> NezhaForPreTraining:
    torch.manual_seed(0)
    return NezhaForPreTraining(
        NezhaConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=48,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
    )


def batch(samples: int) -> Batch:
    """Random samples with 1 to 4 masks each; the first one is shorter."""
    random = np.random.default_rng(0)
    lengths = np.array([LENGTH - 3] + [LENGTH] * (samples - 1))
    inside = np.arange(LENGTH) < lengths[:, None]
    ids = random.integers(5, VOCABULARY, inside.shape)
    chosen = [random.permutation(length)[: 1 + row % 4] for row, length in enumerate(lengths)]
    masked = np.concatenate([np.sort(each) + row * LENGTH for row, each in enumerate(chosen)])
    labels = np.full_like(ids, -100)
    labels.ravel()[masked] = ids.ravel()[masked]
    ids.ravel()[masked] = 4
    return Batch(
        ids,
        ((np.arange(LENGTH) > 6) & inside).astype(np.int64),
        inside.astype(np.int64),
        labels,
        random.integers(0, 2, samples),
        masked,
        labels.ravel()[masked],
        np.arange(samples, dtype=np.uint64),
        int(lengths.sum()),
        int(lengths @ lengths),
    )


def part(whole: Batch, rows: slice) -> Batch:
    """Some samples of a batch."""
    row = whole.masked_positions // LENGTH
    inside = (row >= rows.start) & (row < rows.stop)
    return whole._replace(
        **{name: getattr(whole, name)[rows] for name in BY_SAMPLE},
        masked_positions=whole.masked_positions[inside] - rows.start * LENGTH,
        masked_labels=whole.masked_labels[inside],
    )


def test_what_the_objective_reads_has_no_padding():
    given = batch(6)
    inputs, inside = to_device(given, CPU), given.attention_mask.astype(bool)
    for name in ("input_ids", "token_type_ids"):
        assert (getattr(inputs, name).numpy() == getattr(given, name)[inside]).all()
    assert (inputs.cu_seqlens.diff().numpy() == given.attention_mask.sum(axis=1)).all()
    assert inputs.longest == LENGTH
    assert (given.labels[inside][inputs.masked_positions] == inputs.masked_labels.numpy()).all()


def test_loss_is_that_of_the_hugging_face_model():
    given, model = batch(8), network().eval()
    names = ("input_ids", "attention_mask", "token_type_ids", "labels", "next_sentence_label")
    expected = model(**{name: torch.from_numpy(getattr(given, name)) for name in names}).loss
    inputs, masked = to_device(given, CPU), len(given.masked_labels)
    loss, statistics, _ = PretrainingObjective(model)(inputs, masked, 8)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert summarize(statistics)["loss"] == pytest.approx(expected.item(), rel=1e-5)
    weighted, statistics, _ = PretrainingObjective(model, 0.1)(inputs, masked, 8)
    assert weighted.item() < loss.item()
    assert summarize(statistics, 0.1)["loss"] == pytest.approx(weighted.item(), rel=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_gradient_does_not_depend_on_the_split(dropout):
    given = batch(8)
    objective = PretrainingObjective(network(dropout=dropout))

    def gradients(*slices):
        objective.zero_grad()
        for rows in slices:
            torch.manual_seed(1)
            inputs = to_device(part(given, rows), CPU)
            with masks_by_sample(torch.arange(8)[rows], inputs.cu_seqlens.diff().long()):
                objective(inputs, len(given.masked_labels), 8)[0].backward()
        return {name: p.grad.clone() for name, p in objective.named_parameters()}

    whole = gradients(slice(0, 8))
    split = gradients(slice(0, 1), slice(1, 4), slice(4, 8))
    for name, gradient in whole.items():
        torch.testing.assert_close(split[name], gradient, rtol=1e-4, atol=1e-6)


def test_pairs_without_a_label_leave_the_nsp_loss_out():
    inputs = to_device(batch(4), CPU)
    unlabelled = inputs._replace(next_sentence_label=torch.full((4,), -100))
    loss, statistics, _ = PretrainingObjective(network())(unlabelled, len(inputs.masked_labels))
    scores = summarize(statistics)
    assert "nsp_loss" not in scores
    assert loss.item() == pytest.approx(scores["mlm_loss"], rel=1e-5)


def test_the_loss_of_pairs_has_a_weight():
    inputs = to_device(batch(4), CPU)
    shared = network()
    with torch.no_grad():
        without, whole, quarter = (
            float(PretrainingObjective(shared, weight)(inputs, 7.0, 3.0)[0])
            for weight in (0, 1, 0.25)
        )
    assert quarter == pytest.approx(without + 0.25 * (whole - without))
    assert without < whole
