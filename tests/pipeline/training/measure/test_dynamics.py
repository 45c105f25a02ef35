"""Numbers of an optimizer step, by layer group."""

import pytest

from pipeline.training import engine
from pipeline.training.measure import dynamics
from tests.pipeline.training import networks, spawn


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("network.nezha.encoder.layer.3.output.dense.weight", "layer_03"),
        ("network.nezha.encoder.layer.11.attention.self.query.weight", "layer_11"),
        ("network.nezha.embeddings.word_embeddings.weight", "embeddings"),
        ("network.cls.predictions.transform.dense.weight", "predictions"),
        ("network.nezha.pooler.dense.weight", "pooler"),
        ("first.weight", "first"),
    ],
)
def test_layer_groups(name, group):
    assert dynamics.layer_group(name) == group


def test_every_rank_gets_the_same_numbers():
    one, two = spawn.run(2, values_of_a_step)
    assert one == two
    for (values, ratios), name in zip(one, ("lamb", "adamw"), strict=True):
        assert values["gradient_norm"] > 0
        assert values["skipped_steps"] == 0
        assert "loss_scale" not in values
        assert {key for key in values if "/" in key} == {
            f"{kind}/{ratio.name.split('.')[0]}"
            for kind in ("trust_ratio", "weight_norm", "update_norm")
            for ratio in ratios
        }
        if name == "lamb":
            spread = sorted(ratio.trust_ratio for ratio in ratios)
            assert values["trust_ratio_p50"] == spread[1]
            assert spread[0] < values["trust_ratio_p10"] < values["trust_ratio_p90"] < spread[2]
            norms = values["weight_norm/first"] / values["update_norm/first"]
            assert norms == pytest.approx(values["trust_ratio/first"])
        else:
            assert not ratios


def values_of_a_step():
    results = []
    for name in ("lamb", "adamw"):
        worker = networks.make_engine(
            {"engine": {"zero_stage": 2}, "optim": {"lr": 0.02, "name": name}}
        )
        networks.train(worker, range(2))
        results.append((dynamics.dynamics(worker), engine.optimizer_of(worker).ratios()))
    return results
