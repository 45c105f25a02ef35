"""Requests to stop a run."""

import signal

import pytest

from pipeline.training.faults import stop
from tests.reported import Lines


@pytest.mark.parametrize(
    ("number", "taken"), [(signal.SIGINT, True), (signal.SIGTERM, True), (signal.SIGHUP, False)]
)
def test_a_command_in_the_background_can_be_stopped(tmp_path, number, taken):
    """A shell lets commands behind `&` ignore SIGINT, and `nohup` lets them ignore SIGHUP."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with stop.on_signals(tmp_path, Lines().say) as asked:
            signal.raise_signal(number)
            assert asked.is_set() == stop.requested(tmp_path) == taken
    finally:
        signal.signal(number, before)
