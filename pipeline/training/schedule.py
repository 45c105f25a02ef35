"""The learning rate as a pure function of the step."""

import math

from pipeline.settings.training import OptimSettings


def learning_rate(step: int, total_steps: int, settings: OptimSettings) -> float:
    """Rate of optimizer step `step`, 0-based, of `total_steps`.

    It rises linearly to `optim.lr`, which the first step after the warm-up has. It stays there
    until the last `optim.decay` steps, and falls in them so that it would be 0 at step
    `total_steps`. Without `optim.decay` it falls from the end of the warm-up.

    With t from 0 to 1 in the decay, the factors are: `linear` 1 - t (BERT), `polynomial` the square
    root of that, `cosine` (1 + cos πt) / 2, `sqrt` 1 - √t (Hägele et al. 2024, for a short decay at
    the end). `nvidia` is `polynomial` as NVIDIA's LAMB recipe counts it: its t is the share of all
    steps, so the rate drops when the warm-up ends.
    """
    warmup = steps_of(settings.warmup, total_steps)
    if step < warmup:
        return settings.lr * (step + 1) / (warmup + 1)
    start = warmup
    if settings.schedule == "nvidia":
        start = 0
    elif settings.decay is not None:
        start = max(warmup, total_steps - steps_of(settings.decay, total_steps))
    done = min(1.0, max(0, step - start) / max(1, total_steps - start))
    factor = {
        "linear": 1 - done,
        "polynomial": math.sqrt(1 - done),
        "nvidia": math.sqrt(1 - done),
        "cosine": (1 + math.cos(math.pi * done)) / 2,
        "sqrt": 1 - math.sqrt(done),
        "constant": 1.0,
    }[settings.schedule]
    return settings.lr * factor


def steps_of(length: float, total_steps: int) -> int:
    """`optim.warmup` or `optim.decay` in steps; a value below 1 is a share of all steps."""
    return round(length * total_steps) if length < 1 else round(length)
