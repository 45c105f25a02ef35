"""A request to stop: the workers write a checkpoint at the end of the step, and return."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from pipeline.errors import Interrupted
from pipeline.training.faults import events

FILE = "STOP"
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def requested(run: Path) -> bool:
    """Whether somebody asked the run to stop."""
    return (run / FILE).exists()


@contextmanager
def on_signals(run: Path, show: Callable[[str], None]) -> Iterator[None]:
    """Turn the first Ctrl-C or SIGTERM into a request to stop; the second ends the process.

    An older request is deleted first. Outside the main thread, where Python takes no signals, it
    does nothing more.

    Raises:
        KeyboardInterrupt: at the second signal.
    """
    (run / FILE).unlink(missing_ok=True)
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    asked = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        (run / FILE).touch()
        name = signal.Signals(number).name
        show(f"{name}: stopping after this step, with a checkpoint; once more stops at once")

    previous = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        (run / FILE).unlink(missing_ok=True)


def raise_if_stopped(run: Path, state: dict[str, Any], steps: int) -> None:
    """Raise Interrupted if a run returned this state before its last step."""
    if state["step"] < steps:
        text = f"stopped after step {state['step']} of {steps}, with a checkpoint"
        events.record(run, "interrupted", text)
        raise Interrupted(f"{text}; the same command goes on")
