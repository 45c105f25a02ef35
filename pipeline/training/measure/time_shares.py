"""Which share of a step each of its parts takes, collectives included.

DeepSpeed's own logger does not wait for asynchronous collectives and does not see those that go
straight to torch, as the optimizer's norms do. So the functions of both are replaced for the steps
that are measured.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist

COLLECTIVES = (
    *("all_gather", "all_gather_coalesced", "all_gather_into_tensor", "all_to_all_single"),
    *("all_reduce", "all_reduce_coalesced", "reduce", "reduce_scatter", "reduce_scatter_tensor"),
    *("barrier", "broadcast"),
)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class StepProfiler:
    """Measures every `every`-th step (0: none). It synchronises the device in those steps alone."""

    def __init__(self, device: torch.device, every: int) -> None:
        self._device, self._every = device, every
        self._collectives = CollectiveTimer(device)
        self._seconds: dict[str, float] = {}
        self.active = False
        """Whether the current step, or the last one, is measured."""
        self.restart()

    def _is_due(self, step: int) -> bool:
        return self._every > 0 and step % self._every == 0

    @contextmanager
    def step(self, step: int) -> Iterator[None]:
        """A step, divided by calls of `lap`; the time since `restart` was spent on its data."""
        self.active = self._is_due(step)
        if self.active:
            self._seconds = {"data": time.monotonic() - self._last}
        with self._collectives.running() if self.active else nullcontext():
            self.restart()
            yield
        if self._is_due(step + 1):
            # So that the device does not work on this step during the next one.
            _synchronize(self._device)

    def restart(self) -> None:
        """Start timing here: time before this call belongs to no part of a step."""
        self._last, self._collectives.seconds = time.monotonic(), 0.0

    def lap(self, name: str) -> None:
        """Add the time since the last lap to `name`, except what collectives took."""
        if not self.active:
            return
        _synchronize(self._device)
        waited, elapsed = self._collectives.seconds, time.monotonic() - self._last
        for part, seconds in ((name, elapsed - waited), ("communication", waited)):
            self._seconds[part] = self._seconds.get(part, 0.0) + seconds
        self.restart()

    def take_shares(self) -> dict[str, float]:
        """`time/…` of the last measured step, as shares of 1; empty if they were taken before."""
        parts, self._seconds = self._seconds, {}
        whole = sum(parts.values())
        return {f"time/{name}": seconds / whole for name, seconds in parts.items()}


class CollectiveTimer:
    """Seconds that this process spent in collectives, waiting for other ranks included."""

    def __init__(self, device: torch.device) -> None:
        self.seconds = 0.0
        self._device = device
        self._inside = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """Time the collectives within, and wait for the end of each before anything else runs.

        So the time is counted whole, also where it would overlap with computation.
        """
        from deepspeed.comm import comm

        with ExitStack() as stack:
            for module in (dist, comm.cdb):
                for name in COLLECTIVES:
                    if function := getattr(module, name, None):
                        setattr(module, name, self._timed(function))
                        stack.callback(setattr, module, name, function)
            yield

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @torch.compiler.disable
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._inside:  # DeepSpeed's function calls torch's
                return function(*args, **kwargs)
            self._inside = True
            try:
                _synchronize(self._device)
                started = time.monotonic()
                work = function(*args, **kwargs)
                if hasattr(work, "wait"):
                    work.wait()
                _synchronize(self._device)
                self.seconds += time.monotonic() - started
            finally:
                self._inside = False
            return work

        return timed
