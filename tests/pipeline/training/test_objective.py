import pytest
import torch
from torch import nn

from model import NezhaConfig, NezhaForPreTraining
from model.fused.dropout import masks_by_sample
from pipeline.training.objective import Inputs, PretrainingObjective, summarize

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


def batch(samples: int, seed: int = 0) -> tuple[Inputs, torch.Tensor]:
    """Random inputs with 1 to 4 masks a sample, and the same labels in Hugging Face's form."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, VOCABULARY, (samples, LENGTH), generator=generator)
    labels = torch.full_like(ids, -100)
    for row in range(samples):
        chosen = torch.randperm(LENGTH, generator=generator)[: 1 + row % 4]
        labels[row, chosen] = ids[row, chosen]
        ids[row, chosen] = 4
    lengths = torch.full((samples,), LENGTH)
    lengths[0] -= 3
    inside = torch.arange(LENGTH) < lengths[:, None]
    labels[~inside] = -100
    packed = labels[inside]
    positions = (packed != -100).nonzero().flatten()
    inputs = Inputs(
        ids[inside],
        (torch.arange(LENGTH) > 6).long().expand(samples, -1)[inside],
        torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)]).int(),
        LENGTH,
        positions,
        packed[positions],
        torch.randint(0, 2, (samples,), generator=generator),
    )
    return inputs, labels


def padded(inputs: Inputs, tokens: torch.Tensor) -> torch.Tensor:
    return nn.utils.rnn.pad_sequence(
        tokens.split(inputs.cu_seqlens.diff().tolist()), batch_first=True
    )


def part(inputs: Inputs, rows: slice) -> Inputs:
    first, last = (int(inputs.cu_seqlens[row]) for row in (rows.start, rows.stop))
    inside = (inputs.masked_positions >= first) & (inputs.masked_positions < last)
    return Inputs(
        inputs.input_ids[first:last],
        inputs.token_type_ids[first:last],
        inputs.cu_seqlens[rows.start : rows.stop + 1] - first,
        LENGTH,
        inputs.masked_positions[inside] - first,
        inputs.masked_labels[inside],
        inputs.next_sentence_label[rows],
    )


def test_loss_is_that_of_the_hugging_face_model():
    inputs, labels = batch(8)
    model = network().eval()
    expected = model(
        padded(inputs, inputs.input_ids),
        attention_mask=padded(inputs, torch.ones_like(inputs.input_ids)),
        token_type_ids=padded(inputs, inputs.token_type_ids),
        labels=labels,
        next_sentence_label=inputs.next_sentence_label,
    ).loss
    loss, statistics, _ = PretrainingObjective(model)(inputs, len(inputs.masked_labels), 8)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert summarize(statistics)["loss"] == pytest.approx(expected.item(), rel=1e-5)
    weighted, statistics, _ = PretrainingObjective(model, 0.1)(inputs, len(inputs.masked_labels), 8)
    assert weighted.item() < loss.item()
    assert summarize(statistics, 0.1)["loss"] == pytest.approx(weighted.item(), rel=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_gradient_does_not_depend_on_the_split(dropout):
    inputs, _ = batch(8)
    objective = PretrainingObjective(network(dropout=dropout))
    masked = len(inputs.masked_labels)

    def gradients(*slices):
        objective.zero_grad()
        for rows in slices:
            torch.manual_seed(1)
            keys = torch.arange(8)[rows]
            with masks_by_sample(keys, inputs.cu_seqlens.diff()[rows].long()):
                objective(part(inputs, rows), masked, 8)[0].backward()
        return {name: p.grad.clone() for name, p in objective.named_parameters()}

    whole = gradients(slice(0, 8))
    split = gradients(slice(0, 1), slice(1, 4), slice(4, 8))
    for name, gradient in whole.items():
        torch.testing.assert_close(split[name], gradient, rtol=1e-4, atol=1e-6)


def test_pairs_without_a_label_leave_the_nsp_loss_out():
    inputs, _ = batch(4)
    unlabelled = inputs._replace(next_sentence_label=torch.full((4,), -100))
    loss, statistics, _ = PretrainingObjective(network())(unlabelled, len(inputs.masked_labels))
    scores = summarize(statistics)
    assert "nsp_loss" not in scores
    assert loss.item() == pytest.approx(scores["mlm_loss"], rel=1e-5)


def test_the_loss_of_pairs_has_a_weight():
    inputs, _ = batch(4)
    shared = network()
    with torch.no_grad():
        without, whole, quarter = (
            float(PretrainingObjective(shared, weight)(inputs, 7.0, 3.0)[0])
            for weight in (0, 1, 0.25)
        )
    assert quarter == pytest.approx(without + 0.25 * (whole - without))
    assert without < whole
