"""The gradient noise scale: the batch size from which on larger batches save few steps.

McCandlish et al. 2018, An Empirical Model of Large-Batch Training, appendix A.1. The gradient of b
samples has E|g_b|² = |G|² + S / b, where G is the gradient of all data and S the sum of the
variances of one sample's gradient. A small and a large batch give both, and the noise scale is
S / |G|².
"""

import math
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from pipeline.feed.collate import Batch, first_samples
from pipeline.labels import IGNORED
from pipeline.training.engine import gradient_norm
from pipeline.training.objective import dropout_of, to_device

KEPT = 0.95
"""What an average over measurements keeps of the earlier ones."""
PARTITIONED = 3
"""The stage of ZeRO that has no whole weights, of which a gradient could be taken."""


class Small(NamedTuple):
    """Gradients of small batches, one of each rank."""

    square: float
    """Mean of their squared norms."""
    inverse: float
    """Mean of 1 / samples."""


class NoiseScale:
    """Measures in some steps, with half of the first micro-batch, and averages.

    Args:
        engine: the DeepSpeed engine; under ZeRO-3 nothing is measured.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._possible = engine.zero_optimization_stage() < PARTITIONED
        self._small: Small | None = None
        self._noise = self._square = 0.0

    def before_step(self, batch: Batch, dropout_key: tuple[int, int]) -> None:
        """Take the gradient of the small batch; every rank calls it.

        Args:
            batch: the rank's first micro-batch of the step.
            dropout_key: of `objective.dropout_of`.
        """
        if self._possible:
            half = first_samples(batch, max(1, len(batch.samples) // 2))
            square = squared_gradient_norm(self._engine, half, dropout_key)
            found = torch.tensor([square, 1 / len(half.samples)], dtype=torch.float64)
            found = found.to(self._engine.device)
            dist.all_reduce(found)
            self._small = Small(*(found / dist.get_world_size()).tolist())

    def after_step(self, samples: float) -> None:
        """Take the gradient of the step, if the small one was taken.

        Args:
            samples: of all ranks in the step.
        """
        small, self._small = self._small, None
        large = gradient_norm(self._engine) ** 2
        if small is None or not math.isfinite(large + small.square):
            return
        noise, square = separate(small, large, 1 / samples)
        self._noise = KEPT * self._noise + (1 - KEPT) * noise
        self._square = KEPT * self._square + (1 - KEPT) * square

    def values(self) -> dict[str, float]:
        """`gradient_noise_scale` in samples; empty where the averages give none yet."""
        if self._noise <= 0 or self._square <= 0:
            return {}
        return {"gradient_noise_scale": self._noise / self._square}


def separate(small: Small, large: float, inverse: float) -> tuple[float, float]:
    """S and |G|² from squared gradient norms; (0, 0) where both batches have the same size.

    Args:
        large: squared norm of the large batch's gradient.
        inverse: 1 / samples of the large batch.
    """
    if small.inverse <= inverse:
        return 0.0, 0.0
    noise = (small.square - large) / (small.inverse - inverse)
    return noise, large - noise * inverse


def squared_gradient_norm(engine: Any, batch: Batch, dropout_key: tuple[int, int]) -> float:
    """Squared norm of the gradient of a batch's mean loss; the engine's own gradients stay."""
    parameters = [each for each in engine.module.parameters() if each.requires_grad]
    pairs = int((batch.next_sentence_label != IGNORED).sum())
    # The gradients of fp16 would become zero without the scale.
    scale = float(getattr(engine.optimizer, "loss_scale", 1.0))
    with dropout_of(batch, *dropout_key):
        inputs = to_device(batch, engine.device)
        loss, _, _ = engine.module(inputs, max(1, len(batch.masked_labels)), max(1, pairs))
        gradients = torch.autograd.grad(loss * scale, parameters, allow_unused=True)
    squares = [each.float().square().sum() for each in gradients if each is not None]
    return float(torch.stack(squares).sum()) / scale**2
