"""A request to stop: the workers write a checkpoint at the end of the step, and return."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from pipeline.errors import Interrupted
from pipeline.progress import Say
from pipeline.training.faults import events

FILE = "STOP"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TWICE_SECONDS = 1.0
"""A second signal within this time is the first one: `timeout` sends it to the command, and then to
the group of processes that the command is in."""


def requested(run: Path) -> bool:
    """Whether somebody asked the run to stop."""
    return (run / FILE).exists()


@contextmanager
def on_signals(run: Path, say: Say) -> Iterator[threading.Event]:
    """Turn the first Ctrl-C, SIGTERM or SIGHUP into a request to stop; the second ends the process.

    A terminal that closes sends SIGHUP, which `nohup` lets a process ignore. Outside the main
    thread, where Python takes no signals, it does nothing.

    Yields:
        an event that is set by the first signal.

    Raises:
        KeyboardInterrupt: at the second signal.
    """
    asked, asked_at = threading.Event(), 0.0
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked_at
        if asked.is_set():
            soon = time.monotonic() - asked_at < TWICE_SECONDS
            # The shell sends SIGHUP, and the system when the shell ends.
            if soon or number == signal.SIGHUP:
                return
            raise KeyboardInterrupt
        asked_at = time.monotonic()
        asked.set()
        if number == signal.SIGHUP:  # to write to a terminal that is gone would fail
            for output in terminals:
                os.dup2(os.open(os.devnull, os.O_WRONLY), output)
        name = signal.Signals(number).name
        try:
            (run / FILE).touch()
        except OSError as error:
            raise KeyboardInterrupt(f"{name}; no checkpoint, because {error}") from None
        say(f"{name}: stopping after this step, with a checkpoint; once more stops at once")

    terminals = [output for output in (1, 2) if os.isatty(output)]
    taken = set(SIGNALS)
    # `nohup` ignores SIGHUP on purpose. A shell that runs a command with `&` ignores SIGINT for it
    # too, but whoever sends SIGINT to that command wants it to stop.
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        taken.remove(signal.SIGHUP)
    previous = {number: signal.signal(number, handle) for number in taken}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        (run / FILE).unlink(missing_ok=True)


def clear(run: Path) -> None:
    """Forget an older request; one process calls it before the workers start."""
    (run / FILE).unlink(missing_ok=True)


def raise_if_stopped(run: Path, state: dict[str, Any], steps: int, asked: bool) -> None:
    """Raise Interrupted if the run returned before its last step, or was asked to stop there."""
    if asked or state["step"] < steps:
        text = f"stopped after step {state['step']} of {steps}, with a checkpoint"
        events.record(run, "interrupted", text)
        raise Interrupted(f"{text}; the same command goes on")
