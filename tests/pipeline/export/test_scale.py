"""Embeddings of an export have the scale that they began with, and the network answers the same."""

import copy

import pytest
import torch

from model import NezhaConfig, NezhaForPreTraining
from pipeline.export.scale import rescale_embeddings


def network_of(**changes):
    sizes = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2}
    return NezhaForPreTraining(NezhaConfig(**sizes, **layers, **changes)).eval()


@pytest.mark.parametrize("absolute_positions", [False, True])
@pytest.mark.parametrize(("growth", "power"), [(6.3, 3), (1.2, 0), (0.26, -2)])
def test_answers_do_not_depend_on_the_scale(absolute_positions, growth, power):
    torch.manual_seed(0)
    network = network_of(absolute_positions=absolute_positions)
    with torch.no_grad():
        network.nezha.embeddings.word_embeddings.weight.mul_(growth)
        network.nezha.embeddings.LayerNorm.bias.normal_()
        network.cls.predictions.transform.LayerNorm.bias.normal_()
        network.cls.predictions.bias.normal_()
    before = copy.deepcopy(network)
    assert rescale_embeddings(network) == power
    words = network.nezha.embeddings.word_embeddings.weight
    assert 0.7 < words.std() / network.config.initializer_range < 1.5
    old = before.nezha.embeddings.word_embeddings.weight
    assert torch.equal(words * 2.0**power, old)
    assert network.cls.predictions.decoder.weight is words
    ids = torch.randint(5, 300, (4, 20))
    with torch.no_grad():
        found, expected = network(input_ids=ids), before(input_ids=ids)
    # The epsilon of the LayerNorm behind the embeddings is 1e-12, their variance 4e-4.
    torch.testing.assert_close(found.prediction_logits, expected.prediction_logits)
    torch.testing.assert_close(
        found.seq_relationship_logits, expected.seq_relationship_logits, rtol=1e-5, atol=1e-6
    )


def test_embeddings_of_zeros_stay():
    network = network_of()
    torch.nn.init.zeros_(network.nezha.embeddings.word_embeddings.weight)
    assert rescale_embeddings(network) == 0
