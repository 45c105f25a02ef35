"""What a worker measures as it trains: means between logged steps, and where the time goes."""

from __future__ import annotations

import time

import torch
import torch.distributed as dist

from pipeline.training.flops import Counts, Speed
from pipeline.training.objective import STATISTICS, summarize


class Window:
    """Sums over the steps since the last logged one."""

    def __init__(self, device: torch.device, speed: Speed) -> None:
        self._device, self._speed = device, speed
        self._training_seconds = 0.0
        self._trained_steps = 0
        self._clear()
        self.restart()

    def _clear(self) -> None:
        self._sums = torch.zeros(len(STATISTICS), dtype=torch.float64, device=self._device)
        self._counts = torch.zeros(len(Counts._fields), dtype=torch.float64, device=self._device)
        self._seconds, self._steps = 0.0, 0

    def restart(self) -> None:
        """Begin the time of the next step: evaluation and checkpoints are not training time."""
        self._begun = time.monotonic()

    def add(self, sums_and_counts: tuple[torch.Tensor, torch.Tensor]) -> None:
        sums, counts = sums_and_counts
        self._sums += sums
        self._counts += counts
        self._seconds += time.monotonic() - self._begun
        self._steps += 1

    def close(self, remaining: int) -> dict[str, float]:
        """Means over all ranks since the last call, and the speed; every rank calls it."""
        if dist.is_initialized():
            dist.all_reduce(self._sums)
        values = summarize(self._sums)
        self._training_seconds += self._seconds
        self._trained_steps += self._steps
        values |= self._speed.of(Counts(*self._counts.tolist()), self._seconds)
        values["step_seconds"] = self._seconds / self._steps
        values["seconds_left"] = remaining * self._training_seconds / self._trained_steps
        self._clear()
        return values


class Clock:
    """Where the time of a logged step goes. Other steps are not held up by synchronising."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._on = False
        self._last = time.monotonic()
        self._seconds: dict[str, float] = {}

    def start(self, on: bool) -> None:
        """Begin a step; the time since the last lap was spent waiting for data."""
        waited = time.monotonic() - self._last
        self._on, self._seconds = on, {"data": waited}
        self.restart()

    def restart(self) -> None:
        """Begin here: what went before is nobody's time."""
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        if self._on and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.monotonic()
        self._seconds[name] = self._seconds.get(name, 0.0) + now - self._last
        self._last = now

    def shares(self) -> dict[str, float]:
        """`time/…`: the share of the step that each part took."""
        whole = sum(self._seconds.values())
        return {f"time/{name}": seconds / whole for name, seconds in self._seconds.items()}
