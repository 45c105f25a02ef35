"""How long collectives take: DeepSpeed's, the optimizer's and our own.

DeepSpeed's own logger waits for no asynchronous operation and does not see what goes straight to
torch, as the optimizer's norms do. So both places are wrapped, for the steps that are measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.distributed as dist

COLLECTIVES = (
    "all_gather",
    "all_gather_coalesced",
    "all_gather_into_tensor",
    "all_reduce",
    "all_reduce_coalesced",
    "all_to_all_single",
    "barrier",
    "broadcast",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_tensor",
)


class Stopwatch:
    """Seconds that this process has spent in collectives, waiting for other ranks included."""

    def __init__(self, device: torch.device) -> None:
        self.seconds = 0.0
        self._device = device
        self._inside = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """Collectives within are timed, and for that made to end before anything else goes on.

        So what would overlap with computing is shown whole.
        """
        from deepspeed.comm import comm

        with ExitStack() as stack:
            for place in (dist, comm.cdb):
                for name in COLLECTIVES:
                    if hasattr(place, name):
                        stack.enter_context(self._replaced(place, name))
            yield

    @contextmanager
    def _replaced(self, place: Any, name: str) -> Iterator[None]:
        own, function = vars(place).get(name), getattr(place, name)
        setattr(place, name, self._timed(function))
        try:
            yield
        finally:
            if own is None:
                delattr(place, name)
            else:
                setattr(place, name, own)

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @torch.compiler.disable
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._inside:  # DeepSpeed's, on its way through torch's
                return function(*args, **kwargs)
            self._inside = True
            try:
                self._synchronize()
                begun = time.monotonic()
                work = function(*args, **kwargs)
                if hasattr(work, "wait"):
                    work.wait()
                self._synchronize()
                self.seconds += time.monotonic() - begun
            finally:
                self._inside = False
            return work

        return timed

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
