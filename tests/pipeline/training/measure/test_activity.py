"""Entropy of attention and units that are off, against a plain computation and made-up networks."""

import math

import numpy as np
import pytest
import torch

from pipeline.training.measure.activity import activity
from tests.pipeline.training.test_objective import CPU, batch, network


def test_values_equal_those_of_each_token_alone():
    net = network(dropout=0.5)
    given = batch(6)
    found = activity(net, given, CPU)
    assert net.training, "the network was left in another mode"
    net.eval()
    seen = {}
    for number, layer in enumerate(net.nezha.encoder.layer):
        layer.intermediate.register_forward_pre_hook(
            lambda _, given, number=number: seen.__setitem__(number, given[0])
        )
    entropies, on = np.zeros((2, 2, 0)), torch.zeros(2, 48, dtype=torch.bool)
    for ids, types, mask in zip(
        given.input_ids, given.token_type_ids, given.attention_mask, strict=True
    ):
        alone = torch.from_numpy(ids[mask == 1])[None], torch.from_numpy(types[mask == 1])[None]
        out = net.nezha(alone[0], token_type_ids=alone[1], output_attentions=True)
        weights = torch.cat(out.attentions).double()  # [layers, heads, S, S]
        bits = -(weights * weights.log()).sum(-1) / math.log(weights.shape[-1])
        entropies = np.concatenate([entropies, bits.detach().numpy()], axis=2)
        for number, layer in enumerate(net.nezha.encoder.layer):
            dense = layer.intermediate.dense
            on[number] |= (seen[number] @ dense.weight.T + dense.bias > 0)[0].any(0)
    for number in range(2):
        entropy = found[f"attention_entropy/layer_{number:02d}"]
        assert entropy == pytest.approx(entropies[number].mean(), rel=1e-4)
        assert found[f"dead_units/layer_{number:02d}"] == pytest.approx(
            1 - float(on[number].float().mean())
        )
    assert found["attention_entropy/lowest"] == pytest.approx(entropies.mean(2).min(), rel=1e-4)


def test_heads_that_look_everywhere_and_units_that_are_off():
    net = network()
    with torch.no_grad():
        first, second = net.nezha.encoder.layer
        first.attention.self.query.weight.zero_()
        first.attention.self.query.bias.zero_()
        second.intermediate.dense.weight.zero_()
        second.intermediate.dense.bias[:12] = 1.0
        second.intermediate.dense.bias[12:] = -1.0
    found = activity(net, batch(6), CPU)
    assert found["attention_entropy/layer_00"] == pytest.approx(1.0, abs=1e-5)
    assert found["dead_units/layer_01"] == 0.75
