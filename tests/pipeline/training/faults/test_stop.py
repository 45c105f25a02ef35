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


def test_a_signal_that_comes_twice_asks_once(tmp_path, monkeypatch):
    """`timeout` sends it to the command and to its group; a person sends the second one later."""
    said = Lines()
    with stop.on_signals(tmp_path, said.say):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert len(said) == 1
        monkeypatch.setattr(stop, "TWICE_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
