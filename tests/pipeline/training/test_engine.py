"""DeepSpeed's configuration, precision, norms and whole weights."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

from model import NezhaConfig, NezhaForPreTraining
from model.layers_nezha import NezhaLayer
from pipeline.errors import ConfigError
from pipeline.settings.config import Config
from pipeline.training import batch_split, engine
from pipeline.training.deepspeed_config import deepspeed_config
from pipeline.training.lamb.fragments import locate
from pipeline.training.objective import Inputs, PretrainingObjective
from tests.pipeline.training import networks, spawn


def test_impossible_settings_are_named_together():
    values = {"train": {"precision": "fp16"}, "engine": {"offload": True, "attention": "flash"}}
    with pytest.raises(ConfigError) as caught:
        engine.check(Config.model_validate(values), "cpu")
    for part in ("train.precision=fp16 needs", "there is no GPU", "attention=flash needs"):
        assert part in str(caught.value)
    assert str(caught.value).count("\n") == 2
    engine.check(Config(), "cpu")


def test_deepspeed_settings_follow_from_ours():
    split = batch_split.Split(8, 4, 3)
    config = Config.model_validate({"engine": {"zero_stage": 2}, "optim": {"clip": 0.7}})
    settings = deepspeed_config(config, split, "bf16")
    assert settings["train_batch_size"] == 96
    assert settings["train_micro_batch_size_per_gpu"] == 8
    assert settings["gradient_accumulation_steps"] == 3
    assert settings["gradient_clipping"] == 0.7
    assert settings["bf16"] == {"enabled": True}
    assert settings["data_types"] == {"grad_accum_dtype": "fp32"}
    assert "fp16" not in settings
    assert settings["zero_optimization"]["stage"] == 2
    assert "offload_optimizer" not in settings["zero_optimization"]
    config = Config.model_validate({"engine": {"zero_stage": 3, "offload": True}})
    zero = deepspeed_config(config, split, "fp16")["zero_optimization"]
    assert zero["offload_optimizer"]["device"] == "cpu"


def test_keys_of_deepspeeds_own_are_merged_into_groups():
    given = {"zero_optimization": {"reduce_bucket_size": 5}, "fp16": {"hysteresis": 1}}
    config = Config.model_validate({"engine": {"deepspeed": given}})
    settings = deepspeed_config(config, batch_split.Split(8, 1, 1), "fp16")
    assert settings["zero_optimization"]["reduce_bucket_size"] == 5
    assert settings["zero_optimization"]["stage"] == 1
    assert settings["fp16"] == {"enabled": True, "hysteresis": 1}
    engine.check(
        Config.model_validate({"engine": {"deepspeed": {"wall_clock_breakdown": True}}}), "cpu"
    )
    wrong = {"zero_optimization": {"reduce_bucket": 5}}
    with pytest.raises(
        ConfigError, match=r"engine\.deepspeed: DeepSpeed refuses.*\s.*reduce_bucket"
    ):
        engine.check(Config.model_validate({"engine": {"deepspeed": wrong}}), "cpu")


CASES = [(stage, precision) for precision in ("fp32", "bf16") for stage in (1, 2, 3)]


@pytest.mark.parametrize("world_size", [1, 2])
def test_gradient_norm_and_whole_weights(world_size):
    """Both are those of a plain backward pass and a plain network, at every stage."""
    network = networks.build()
    inputs, labels = networks.global_batch(0, 16)
    network(inputs, labels).backward()
    gradients = [parameter.grad.flatten() for parameter in network.parameters()]
    expected = torch.cat(gradients).norm().item()
    results = spawn.run(world_size, first_step, CASES)
    for case, (norm, before, after) in zip(CASES, results[0], strict=True):
        assert norm == pytest.approx(expected, rel=1e-6 if case[1] == "fp32" else 1e-2), case
        assert before.keys() == dict(network.named_parameters()).keys()
        for name, weight in network.named_parameters():
            # Also in bf16: the master weights are not rounded.
            assert torch.equal(before[name], weight.detach()), (case, name)
            assert before[name].dtype == torch.float32
            assert not torch.equal(before[name], after[name])
    if world_size == 2:
        assert all(weights is None for _, *both in results[1] for weights in both)
        assert [norm for norm, *_ in results[1]] == [norm for norm, *_ in results[0]]


def first_step(cases):
    results = []
    for stage, precision in cases:
        # The norm is that before clipping.
        settings = {"engine": {"zero_stage": stage}, "optim": {"clip": 1e-3}}
        worker = networks.make_engine(settings, precision=precision)
        before = networks.full_state_dict(worker)
        networks.train(worker, range(1))
        results.append((engine.gradient_norm(worker), before, networks.full_state_dict(worker)))
    return results


def test_one_bad_weight_anywhere_is_found():
    assert spawn.run(2, finite_or_not) == [[True, False]] * 2


def finite_or_not():
    worker = networks.make_engine({"engine": {"zero_stage": 3}})
    flat, results = locate(worker)[0], []
    padding = networks.padding(flat)
    flat.tensor.data[padding] = torch.nan
    results.append(engine.weights_are_finite(worker))
    if torch.distributed.get_rank():
        flat.tensor.data[(~padding).nonzero()[-1]] = torch.inf
    results.append(engine.weights_are_finite(worker))
    return results


def test_adamw_is_torchs():
    spawn.run(1, compare_with_adamw)


def compare_with_adamw():
    values = {
        "engine": {"zero_stage": 1},
        "optim": {"name": "adamw", "lr": 0.01, "weight_decay": 0.1, "clip": 0},
    }
    worker = networks.make_engine(values)
    networks.train(worker, range(10))
    network = networks.build()
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim == 1]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1, eps=1e-6)
    for step in range(10):
        optimizer.zero_grad()
        network(*networks.global_batch(step, 16)).backward()
        optimizer.step()
    weights = networks.full_state_dict(worker)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(weights[name], parameter.detach(), rtol=0, atol=2e-5)


def test_a_cpu_compiles_nothing_and_stays_quiet(capfd):
    assert spawn.run(2, start_quietly) == [(), ()]
    noise = capfd.readouterr()
    assert noise.out == ""
    assert "INFO" not in noise.err


def start_quietly():
    for stage in (1, 3):
        worker = networks.make_engine({"engine": {"zero_stage": stage}}, precision="bf16")
        networks.train(worker, range(2))
    return tuple(name for name in sys.modules if name.startswith("deepspeed_shm_comm"))


class Recomputing(networks.Network):
    enabled = False

    def activation_checkpointing_enable(self, activation_checkpointing_kwargs):
        self.enabled = not activation_checkpointing_kwargs["use_reentrant"]


def test_activation_checkpointing_reaches_the_network():
    spawn.run(1, checkpoint_activations)


def checkpoint_activations():
    config = Config.model_validate({"engine": {"activation_checkpointing": True}})
    split = batch_split.Split(4, 1, 1)
    network = Recomputing()
    engine.initialize(network, config, split, "fp32")
    assert network.enabled
    with pytest.raises(ConfigError, match="cannot recompute"):
        engine.initialize(networks.build(), config, split, "fp32")


def test_layers_are_compiled_once_for_all_sizes():
    """They share one graph, in which a kernel's seed is one call and no program for a CPU."""
    spawn.run(1, compile_layers)


def compile_layers():
    graphs = []

    def backend(graph, _):
        graphs.append({str(node.target) for node in graph.graph.nodes})
        return graph.forward

    plain_compile = nn.Module.compile
    NezhaLayer.compile = lambda self, **options: plain_compile(self, backend=backend, **options)
    size = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 1}
    # Triton's interpreter computes attention; dropout of hidden states would be that of CPUs.
    settings = NezhaConfig(**size, intermediate_size=32, vocab_size=99, hidden_dropout_prob=0.0)
    settings._attn_implementation = "flash"
    config = Config.model_validate({"engine": {"compile": True}})
    objective = PretrainingObjective(NezhaForPreTraining(settings))
    worker = engine.initialize(objective, config, batch_split.Split(4, 1, 1), "fp32")
    for lengths in ([17, 5, 9, 2], [11, 12], [3, 6, 16]):
        tokens = torch.randint(5, 99, (sum(lengths),))
        starts = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
        pairs = torch.zeros(len(lengths), dtype=torch.long)
        given = (tokens, tokens * 0, starts, max(lengths), torch.arange(3), tokens[:3], pairs)
        loss, _, _ = worker(Inputs(*given))
        worker.backward(loss)
        worker.step()
        assert loss.isfinite()
    assert len(graphs) == 1
    (targets,) = graphs
    assert {"nezha.kernel_seed.default", "nezha.triton_attention.default"} <= targets
    assert not any("randint" in target for target in targets)
