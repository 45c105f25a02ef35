"""Steps whose gradients are not finite, and losses far beyond the recent ones."""

import math
from collections import deque
from collections.abc import Iterable
from statistics import fmean, pstdev

from pipeline.errors import TrainingError
from pipeline.settings.faults import FaultSettings

WINDOW = 20
"""Logged losses that make up the recent past."""
FEWEST = 8
"""Logged losses before which a spike can't be told from the start of the training."""
LEAST_RISE = 1.2
"""A spike is a fifth above the recent mean at least: a flat curve has tiny deviations."""


class Diverged(TrainingError):
    """The run must not go on from here."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message, step)
        self.step = step


class DivergenceGuard:
    """Looks at each step's outcome, which is the same on all ranks.

    Args:
        recent: losses that the run has logged before, in this phase.
        phase: the number of the phase that it goes on in.
    """

    def __init__(self, faults: FaultSettings, recent: Iterable[float] = (), phase: int = 0) -> None:
        self._faults = faults
        self._bad = 0
        self._phase = phase
        self._recent = deque(filter(math.isfinite, recent), maxlen=WINDOW)

    def after_step(self, step: int, skipped: bool) -> None:
        """Count a step that was skipped because its gradients are not finite.

        Raises:
            Diverged: `faults.bad_steps` in a row.
        """
        self._bad = self._bad + 1 if skipped else 0
        if self._bad >= self._faults.bad_steps:
            raise diverged(step, f"the gradients of {self._bad} steps in a row are not finite")

    def after_interval(self, step: int, loss: float, phase: int = 0) -> str:
        """Compare a logged loss with the recent ones; returns what is wrong, if the run goes on.

        Samples of another phase may be harder, so only losses of the same phase are compared.

        Raises:
            Diverged: it is a spike, unless `faults.spike=skip`.
        """
        if phase != self._phase:
            self._recent.clear()
            self._phase = phase
        mean, deviation = (fmean(self._recent), pstdev(self._recent)) if self._recent else (0, 0)
        bound = max(mean + self._faults.spike_deviations * deviation, LEAST_RISE * mean)
        if not math.isfinite(loss):
            return ""  # every step of the interval was skipped, and is counted by `after_step`
        if len(self._recent) >= FEWEST and loss > bound:
            what = f"the loss jumped from {mean:.3f} ± {deviation:.3f} to {loss:.4g}"
            if self._faults.spike != "skip":
                raise diverged(step, what)
            return f"step {step}: {what}"
        self._recent.append(loss)
        return ""


def diverged(step: int, what: str) -> Diverged:
    """The error for a step, with what was found and what to change."""
    return Diverged(f"step {step}: {what}; lower optim.lr or raise optim.warmup", step)
