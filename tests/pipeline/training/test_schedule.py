"""Learning rates: the peak, the ends, the shapes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.settings.training import OptimSettings
from pipeline.training.schedule import learning_rate, steps_of

SCHEDULES = ("linear", "polynomial", "cosine", "sqrt", "constant")


@given(
    total=st.integers(1, 500),
    warmup=st.one_of(st.floats(0, 0.99), st.integers(1, 600)),
    schedule=st.sampled_from(SCHEDULES),
)
def test_it_rises_to_the_peak_and_never_rises_again(total, warmup, schedule):
    settings = OptimSettings(lr=0.5, warmup=warmup, schedule=schedule)
    rates = [learning_rate(step, total, settings) for step in range(total)]
    assert all(0 < rate <= 0.5 for rate in rates)
    top = min(steps_of(settings.warmup, total), total)
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    if top < total:
        assert rates[top] == 0.5


@pytest.mark.parametrize(
    ("schedule", "middle"),
    [
        ("linear", 0.5),
        ("polynomial", 0.5**0.5),
        ("nvidia", (500 / 1100) ** 0.5),
        ("cosine", 0.5),
        ("sqrt", 1 - 0.5**0.5),
        ("constant", 1.0),
    ],
)
def test_shapes(schedule, middle):
    settings = OptimSettings(lr=1.0, warmup=100, schedule=schedule)
    assert learning_rate(600, 1100, settings) == pytest.approx(middle)
    assert learning_rate(49, 1100, settings) == pytest.approx(50 / 101)


def test_warmup_is_a_count_or_a_share():
    assert steps_of(0.01, 2000) == 20
    assert steps_of(1, 2000) == 1
    assert steps_of(0, 2000) == 0


@pytest.mark.parametrize("decay", [0.2, 220])
def test_a_rate_that_is_stable_falls_in_the_last_steps_alone(decay):
    settings = OptimSettings(lr=1.0, warmup=100, decay=decay)
    rates = [learning_rate(step, 1100, settings) for step in range(1100)]
    assert set(rates[100:881]) == {1.0}
    whole = OptimSettings(lr=1.0, warmup=0)
    assert rates[880:] == [learning_rate(step, 220, whole) for step in range(220)]
