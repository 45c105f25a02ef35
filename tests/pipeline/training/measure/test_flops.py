"""Needed operations: by hand, as torch counts them, and as a share of a peak."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model import NezhaConfig
from pipeline.training.measure.flops import Counts, Speed, needed_flops, peak_of, peak_tflops
from pipeline.training.objective import Inputs, PretrainingObjective
from pipeline.training.start.network import build_network
from tests.benchmarks import step

SMALL = NezhaConfig(
    vocab_size=50,
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    max_relative_position=3,
)


@pytest.mark.parametrize(
    ("counts", "flops"),
    [
        # Weights of a layer: 4·8·8 + 2·8·24 = 640.
        (Counts(masked=0, pairs=0, tokens=10, squares=0), 2 * 6 * 640 * 10),
        (Counts(masked=0, pairs=0, tokens=0, squares=52), 2 * 12 * 8 * 52),
        (Counts(masked=3, pairs=0, tokens=0, squares=0), 6 * (64 + 400) * 3),
        (Counts(masked=0, pairs=4, tokens=0, squares=0), 6 * (64 + 16) * 4),
        (Counts(masked=3, pairs=4, tokens=10, squares=52), 76800 + 9984 + 8352 + 1920),
    ],
)
def test_by_hand(counts, flops):
    assert needed_flops(SMALL, counts) == flops


def test_torch_counts_the_same_and_the_position_term():
    samples, length, masked = 3, 16, 7
    inputs = Inputs(
        torch.randint(5, 50, (samples * length,)),
        torch.zeros(samples * length, dtype=torch.long),
        torch.arange(0, samples * length + 1, length, dtype=torch.int32),
        length,
        torch.arange(masked),
        torch.full((masked,), 9),
        torch.zeros(samples, dtype=torch.long),
    )
    network = build_network(SMALL, 0, "eager")
    # torch does not count inside our operators, and a plain layer in this place has none.
    network.cls.predictions.decoder = torch.nn.Linear(8, 50)
    objective = PretrainingObjective(network)
    with FlopCounterMode(display=False) as counter:
        objective(inputs)[0].backward()
    tokens = samples * length
    # Queries times the table, and the sum of its rows; each in the forward pass and for a gradient.
    positions = SMALL.num_hidden_layers * 2 * 2 * 2 * tokens * 8 * (2 * 3 + 1)
    needed = needed_flops(SMALL, Counts(masked, samples, tokens, samples * length**2))
    assert counter.get_total_flops() == needed + positions


def test_the_benchmark_of_a_step_counts_the_same():
    batch, length = 4, 128
    counts = Counts(round(512 * step.MASKED), batch, batch * length, batch * length**2)
    assert step.needed_flops(batch, length) == needed_flops(NezhaConfig(), counts)


@pytest.mark.parametrize(
    ("device", "precision", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", "bf16", 312),
        ("NVIDIA A100-PCIE-40GB", "fp16", 312),
        ("NVIDIA A100 80GB PCIe", "fp32", 19.5),
        ("NVIDIA H100 80GB HBM3", "bf16", 989.4),
        ("NVIDIA H100 PCIe", "bf16", 756),
        ("NVIDIA H100 NVL", "bf16", 835.5),
        ("NVIDIA H200", "bf16", 989.4),
        ("NVIDIA B200", "bf16", 2250),
        ("Tesla V100-SXM2-16GB", "fp16", 125),
        ("Tesla V100-PCIE-32GB", "fp32", 14),
        ("Tesla V100-SXM2-32GB", "bf16", None),
        ("NVIDIA A10", "bf16", 125),
        ("NVIDIA L4", "bf16", 121),
        ("NVIDIA L40S", "bf16", 362),
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2),
        ("NVIDIA GeForce RTX 3090", "fp32", 35.6),
        # Names that contain a known one are other devices.
        ("NVIDIA A10G", "bf16", None),
        ("NVIDIA L40", "bf16", None),
        ("NVIDIA GB200", "bf16", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bf16", None),
    ],
)
def test_peaks(device, precision, tflops):
    assert peak_tflops(device, precision) == tflops


def test_fp32_products_in_tf32_have_another_peak():
    assert peak_tflops("NVIDIA A100-SXM4-80GB", "fp32", tf32=True) == 156
    assert peak_tflops("Tesla V100-SXM2-16GB", "fp32", tf32=True) == 15.7


def test_a_given_peak_comes_first_and_a_cpu_has_none():
    assert peak_of(torch.device("cpu"), "bf16", None) is None
    assert peak_of(torch.device("cpu"), "bf16", 2.5) == 2.5


def test_speed_is_a_share_of_all_workers():
    counts = Counts(masked=0, pairs=0, tokens=10, squares=0)  # 76,800 operations
    peak = 76_800 / 1e12
    assert Speed(SMALL, 2, peak).of(counts, 0.5) == {"tokens_per_second": 20, "mfu": 1.0}
    assert Speed(SMALL, 1, None).of(counts, 1.0)["tflops_per_worker"] == pytest.approx(peak)
