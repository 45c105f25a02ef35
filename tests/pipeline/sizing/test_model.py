"""The formulas of a plan."""

import math

import pytest

from pipeline.sizing import model

BASE = model.Network(parameters=100_000_000, flops_per_token=6e8, activation_bytes=200_000)
ONE = model.Machine(
    workers=1,
    per_node=1,
    seconds_per_token=1e-5,
    seconds_per_parameter=1e-9,
    network=1e9,
    local=1e10,
)


def test_zero_divides_what_it_shards():
    alone, shared = (
        [model.memory(BASE, stage, workers, half=True, tokens=1000) for stage in (1, 2, 3)]
        for workers in (1, 8)
    )
    assert {each[:3] for each in alone} == {(2e8, 4e8, 1.2e9)}
    assert [each[:3] for each in shared] == [
        (2e8, 4e8, 1.5e8),
        (2e8, 0.5e8, 1.5e8),
        (0.25e8, 0.5e8, 1.5e8),
    ]
    assert {each.activations for each in (*alone, *shared)} == {2e8}
    assert model.memory(BASE, 1, 1, half=False, tokens=0).weights == 4e8


def test_the_largest_micro_batch_fits_and_one_more_does_not():
    limit = 40e9
    memory = model.memory(BASE, 1, 8, half=True, tokens=1000)
    largest = model.largest_micro_batch(memory, BASE, 128, limit)
    for samples, fits in ((largest, True), (largest + 1, False)):
        used = sum(model.memory(BASE, 1, 8, True, samples * 128))
        assert (used <= 0.9 * limit) == fits
    assert model.largest_micro_batch(memory, BASE, 128, 1e9) == 0


def test_offloaded_state_leaves_room_for_samples():
    on_device, offloaded = (
        model.memory(BASE, 1, 1, half=True, tokens=1000, offload=each) for each in (False, True)
    )
    assert (on_device.optimizer, offloaded.optimizer) == (1.2e9, 0)
    assert model.largest_micro_batch(offloaded, BASE, 128, 4e9) > (
        model.largest_micro_batch(on_device, BASE, 128, 4e9)
    )


def test_gradients_move_inside_nodes_and_between_them():
    assert model.all_reduce_seconds(ONE, 1e9) == 0
    node = ONE._replace(workers=8, per_node=8)
    assert model.all_reduce_seconds(node, 1e9) == pytest.approx(2 * 7 / 8 * 0.1)
    two = node._replace(workers=16)
    assert model.all_reduce_seconds(two, 1e9) == pytest.approx(2 * 7 / 8 * 0.1 + 1.0)


def test_a_step_divides_computing_and_pays_for_gradients():
    single = model.step_time(BASE, ONE, 1, tokens=1e6, micro=4)
    assert single == (pytest.approx(10.0), 0.0, pytest.approx(0.1))
    many = ONE._replace(workers=16, per_node=8)
    first, second, third = (model.step_time(BASE, many, s, 1e6, micro=4) for s in (1, 2, 3))
    assert first.compute == pytest.approx(10 / 16)
    assert second.communication == pytest.approx(4 * first.communication)
    assert third.communication == pytest.approx(8 * first.communication)


def test_the_best_interval_is_the_best():
    """Young's and Daly's interval loses less than its neighbours."""
    mean, saving, restart = 3600.0 * 10, 30.0, 180.0
    best = model.goodput(mean * 100, 100, saving, restart)
    assert best.interval == pytest.approx(math.sqrt(2 * saving * mean))

    def share(interval):
        return 1 - saving / interval - (interval / 2 + restart) / mean

    assert best.share == pytest.approx(share(best.interval))
    assert best.share > max(share(best.interval * 0.9), share(best.interval * 1.1))
