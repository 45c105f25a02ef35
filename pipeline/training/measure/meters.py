"""What a worker measures as it trains: means between logged steps, and where the time goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
import torch.distributed as dist

from pipeline.training.measure.communication import Stopwatch
from pipeline.training.measure.flops import Counts, Speed
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
        self._communication = Stopwatch(device)
        self._seconds: dict[str, float] = {}
        self.restart()

    @contextmanager
    def step(self, on: bool) -> Iterator[None]:
        """A step, told apart by laps; the time since the last one was spent waiting for data."""
        self._on, self._seconds = on, {"data": time.monotonic() - self._last}
        with self._communication.running() if on else nullcontext():
            self.restart()
            yield

    def restart(self) -> None:
        """Begin here: what went before is nobody's time."""
        self._last, self._communication.seconds = time.monotonic(), 0.0

    def lap(self, name: str) -> None:
        """What went on since the last lap was `name`, less the time in collectives."""
        if self._on and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        waited, elapsed = self._communication.seconds, time.monotonic() - self._last
        for part, seconds in ((name, elapsed - waited), ("communication", waited)):
            self._seconds[part] = self._seconds.get(part, 0.0) + seconds
        self.restart()

    def shares(self) -> dict[str, float]:
        """`time/…`: the share of the step that each part took."""
        whole = sum(self._seconds.values())
        return {f"time/{name}": seconds / whole for name, seconds in self._seconds.items()}
