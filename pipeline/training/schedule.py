"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from pipeline.settings.training import OptimSettings


def warmup_steps(total_steps: int, settings: OptimSettings) -> int:
    """`optim.warmup` as a number of steps; a value below 1 is a share of all steps."""
    warmup = settings.warmup
    return round(warmup * total_steps) if warmup < 1 else round(warmup)


def learning_rate(step: int, total_steps: int, settings: OptimSettings) -> float:
    """Rate of optimizer step `step`, 0-based, of `total_steps`.

    It rises linearly to `optim.lr`, which the first step after the warm-up has, and falls from
    there so that it would be 0 at step `total_steps`. `linear` is BERT's decay. `polynomial` is the
    square root that NVIDIA's LAMB recipe uses; NVIDIA counts the decay from step 0, also during the
    warm-up.
    """
    warmup = warmup_steps(total_steps, settings)
    if step < warmup:
        return settings.lr * (step + 1) / (warmup + 1)
    done = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    factor = {
        "linear": 1 - done,
        "polynomial": math.sqrt(1 - done),
        "cosine": (1 + math.cos(math.pi * done)) / 2,
        "constant": 1.0,
    }[settings.schedule]
    return settings.lr * factor
