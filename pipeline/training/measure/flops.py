"""Operations that a training step needs, and the share of a device's peak that it reaches.

Model FLOPs utilisation (MFU; Chowdhery et al., PaLM, arXiv 2204.02311, appendix B): operations
that forward and backward pass need, divided by the time they took and the peak of the devices. It
counts 6 operations for each weight and token in the layers' matrices; 12·H for each layer and each
pair of tokens of a sample in attention; 6 for each weight of the MLM head and masked token; and 6
for each weight of pooler and NSP head and labelled pair. It does not count padding, recomputed
activations, dropout, the optimizer and NEZHA's position term, so that the figure compares with
plain BERT's.
"""

import re
from typing import NamedTuple

import torch

from model import NezhaConfig


class Counts(NamedTuple):
    """What steps processed, over all workers; the number of operations follows from it."""

    masked: float
    """Masked tokens."""
    pairs: float
    """Samples with a next-sentence label."""
    tokens: float
    """Tokens that are not padding."""
    squares: float
    """Sum over the samples of the square of their tokens."""


class Peak(NamedTuple):
    """Peak of a GPU's dense matrix products in TFLOP/s; None where it has no units for them."""

    bf16: float | None
    fp16: float | None
    fp32: float
    tf32: float | None = None


# From NVIDIA's data sheets, with fp32 accumulation; half the figure where it is "with sparsity".
# The key matches the whole name that CUDA reports, without vendor and memory.
PEAKS = {
    r"B200": Peak(2250, 2250, 75, 1125),
    r"H200|H100 HBM3|H100 SXM\w*": Peak(989.4, 989.4, 66.9, 494.7),
    r"H200 NVL|H100 NVL": Peak(835.5, 835.5, 60, 417.5),
    r"H100 PCIe": Peak(756, 756, 51, 378),
    r"A100[- ](SXM\w*|PCIe?)": Peak(312, 312, 19.5, 156),
    r"V100-SXM\w*": Peak(None, 125, 15.7),
    r"V100-PCIE": Peak(None, 112, 14),
    r"L40S": Peak(362, 362, 91.6, 183),
    r"A10": Peak(125, 125, 31.2, 62.5),
    r"L4": Peak(121, 121, 30.3, 60),
    r"GeForce RTX 4090": Peak(165.2, 165.2, 82.6, 82.6),
    r"GeForce RTX 3090": Peak(71, 71, 35.6, 35.6),
}


def needed_flops(shape: NezhaConfig, counts: Counts) -> float:
    """Operations of forward and backward pass; a multiplication and its addition are two."""
    width, inner = shape.hidden_size, shape.intermediate_size
    weights = 4 * width**2 + 2 * width * inner
    layers = 6 * weights * counts.tokens + 12 * width * counts.squares
    words = 6 * (width**2 + width * shape.vocab_size) * counts.masked
    sentences = 6 * (width**2 + 2 * width) * counts.pairs
    return shape.num_hidden_layers * layers + words + sentences


def peak_tflops(device: str, precision: str, tf32: bool = False) -> float | None:
    """A device's peak in TFLOP/s by the name that CUDA reports; None where it is not known.

    Args:
        device: such as "NVIDIA A100-SXM4-80GB".
        precision: bf16, fp16 or fp32.
        tf32: fp32 products use TF32 units.
    """
    name = re.sub(r"^(NVIDIA|Tesla) |[- ]\d+GB", "", device)
    for pattern, peak in PEAKS.items():
        if re.fullmatch(pattern, name, re.IGNORECASE):
            kind = "tf32" if precision == "fp32" and tf32 and peak.tf32 else precision
            return getattr(peak, kind)
    return None


def peak_of(device: torch.device, precision: str, given: float | None) -> float | None:
    """The peak that the user gave, else that of this device, in TFLOP/s; None for a CPU."""
    if given or device.type != "cuda":
        return given
    tf32 = torch.backends.cuda.matmul.allow_tf32
    return peak_tflops(torch.cuda.get_device_name(device), precision, tf32)


class Speed(NamedTuple):
    """Turns counts and seconds into speeds."""

    shape: NezhaConfig
    workers: int
    peak: float | None
    """Of one worker's device, in TFLOP/s; None where it is not known."""

    def of(self, counts: Counts, seconds: float) -> dict[str, float]:
        """`tokens_per_second` of all workers; `mfu` or, without a peak, `tflops_per_worker`."""
        tflops = needed_flops(self.shape, counts) / seconds / self.workers / 1e12
        achieved = {"mfu": tflops / self.peak} if self.peak else {"tflops_per_worker": tflops}
        return {"tokens_per_second": counts.tokens / seconds, **achieved}
