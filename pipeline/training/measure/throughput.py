"""Mean losses and the speed between two logged steps."""

import time

import torch

from pipeline.training.measure.flops import Counts, Speed
from pipeline.training.objective import STATISTICS, summarize
from pipeline.training.ranks import sum_over_ranks


class Interval:
    """Sums over the steps since the last logged one.

    Steps that are profiled synchronise the device, so they count for the losses but not for the
    speed.
    """

    def __init__(self, device: torch.device, speed: Speed, nsp_weight: float = 1.0) -> None:
        self._device, self._speed, self._nsp_weight = device, speed, nsp_weight
        self._all_seconds, self._all_steps = 0.0, 0
        self._clear()
        self.restart()

    def _clear(self) -> None:
        self._sums = torch.zeros(len(STATISTICS), dtype=torch.float64, device=self._device)
        self._counts = torch.zeros(len(Counts._fields), dtype=torch.float64, device=self._device)
        self._seconds, self._steps = 0.0, 0

    def sums(self) -> list[float]:
        """STATISTICS of all ranks since the last logged step, for a checkpoint between two."""
        sums = self._sums.clone()
        sum_over_ranks(sums)
        return sums.tolist()

    def resume(self, sums: list[float]) -> None:
        """Go on from the `sums` that a checkpoint holds; one rank calls it."""
        self._sums += torch.tensor(sums, dtype=torch.float64, device=self._device)

    def restart(self) -> None:
        """Start timing the next step: evaluation and checkpoints are not training time."""
        self._started = time.monotonic()

    def add(self, sums: torch.Tensor, counts: torch.Tensor, profiled: bool) -> None:
        """Add the step that has just ended: this rank's STATISTICS [6], Counts of all ranks [4]."""
        self._sums += sums
        if not profiled:
            self._counts += counts
            self._seconds += time.monotonic() - self._started
            self._steps += 1

    def close(self, remaining: int) -> dict[str, float]:
        """Means over all ranks since the last call, and the speed; every rank calls it.

        Returns:
            what `summarize` returns and, unless every step was profiled, what `Speed.of` returns,
            `step_seconds` and `seconds_left` (for the `remaining` steps of the run).
        """
        sum_over_ranks(self._sums)
        values = summarize(self._sums, self._nsp_weight)
        if self._steps:
            self._all_seconds += self._seconds
            self._all_steps += self._steps
            values |= self._speed.of(Counts(*self._counts.tolist()), self._seconds)
            values["step_seconds"] = self._seconds / self._steps
            values["seconds_left"] = remaining * self._all_seconds / self._all_steps
        self._clear()
        return values
