"""The order of samples: permutations, world sizes and mixtures."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus.randomness import key_of
from pipeline.feed.order import BatchSize, permuted, positions_of, sample_at, source_at


@given(st.integers(1, 400), st.integers(0, 2**64 - 1))
def test_permuted_is_a_permutation(size, key):
    taken = permuted(np.arange(size), size, np.uint64(key))
    assert sorted(taken.tolist()) == list(range(size))


@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.data())
def test_permutations_computed_together_equal_those_computed_alone(sizes, data):
    values = np.array([data.draw(st.integers(0, size - 1)) for size in sizes])
    keys = np.array([key_of(7, place) for place in range(len(sizes))])
    alone = [permuted(values[i : i + 1], sizes[i], keys[i])[0] for i in range(len(sizes))]
    assert permuted(values, np.array(sizes), keys).tolist() == alone


def test_permutations_look_random():
    """A value's image, and its distance to the neighbour's image, are uniform (chi-square)."""
    size, keys = 50, [key_of(seed) for seed in range(2000)]
    first = np.array([permuted(np.array([0, 1]), size, key) for key in keys])
    for counts in (
        np.bincount(first[:, 0], minlength=size),
        np.bincount((first[:, 1] - first[:, 0]) % size, minlength=size)[1:],
    ):
        expected = counts.mean()
        assert ((counts - expected) ** 2 / expected).sum() < 120  # chi-square(49) at 1e-7
    moved = permuted(np.arange(100_000), 100_000, key_of(1))
    assert abs(np.corrcoef(np.arange(100_000), moved)[0, 1]) < 0.02
    assert abs(np.corrcoef(moved[:-1], moved[1:])[0, 1]) < 0.02


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=8).filter(sum),
    st.integers(0, 2**32 - 1),
    st.integers(0, 4),
)
def test_every_epoch_holds_every_sample_once(rows, seed, window):
    total = sum(rows)
    samples, epochs = sample_at(np.arange(3 * total), np.array(rows), seed, window)
    assert epochs.tolist() == [0] * total + [1] * total + [2] * total
    for epoch in range(3):
        part = samples[epoch * total : (epoch + 1) * total]
        assert sorted(part.tolist()) == list(range(total))


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=8),
    st.integers(0, 2**32 - 1),
    st.integers(0, 3),
    st.lists(st.integers(0, 60), max_size=9),
)
def test_the_sample_at_a_position_does_not_depend_on_other_positions(rows, seed, window, asked):
    samples, _ = sample_at(np.arange(61), np.array(rows), seed, window)
    some, _ = sample_at(np.array(asked, int), np.array(rows), seed, window)
    assert some.tolist() == samples[np.array(asked, int)].tolist()


def test_a_window_needs_few_shards_and_each_epoch_has_other_windows():
    rows = np.full(12, 100)
    samples, _ = sample_at(np.arange(2400), rows, 5, window=3)
    windows = [set((samples[at : at + 300] // 100).tolist()) for at in range(0, 2400, 300)]
    assert all(len(window) == 3 for window in windows)
    assert windows[:4] != windows[4:]
    assert abs(np.corrcoef(np.arange(300), samples[:300])[0, 1]) < 0.95


def test_each_seed_and_epoch_has_another_order():
    rows = np.array([100])
    one, _ = sample_at(np.arange(200), rows, 1)
    other, _ = sample_at(np.arange(100), rows, 2)
    assert one[:100].tolist() != one[100:].tolist()
    assert one[:100].tolist() != other.tolist()


@given(st.integers(0, 1000), st.integers(1, 64), st.integers(1, 9))
def test_ranks_share_a_step_for_any_world_size(step, batch, world):
    parts = [positions_of(step, BatchSize(batch), rank, world) for rank in range(world)]
    assert np.concatenate(parts).tolist() == list(range(step * batch, (step + 1) * batch))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(1, 60), st.integers(0, 40), st.integers(1, 50), st.integers(1, 9))
def test_a_growing_batch_uses_each_position_once(first, more, growing, world):
    size = BatchSize(first + more, first, growing)
    sizes = [size.of(step) for step in range(growing + 3)]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[growing:]) == (first, [first + more] * 3)
    parts = [
        positions_of(step, size, rank, world)
        for step in range(growing + 3)
        for rank in range(world)
    ]
    assert np.concatenate(parts).tolist() == list(range(sum(sizes)))


def test_a_late_position_is_found_without_the_earlier_ones():
    rows = np.full(2500, 40_000)
    for window in (0, 64):
        samples, epochs = sample_at(10**8 + np.arange(256), rows, 1, window)
        assert set(epochs.tolist()) == {1}
        assert samples.max() < 10**8


@given(st.lists(st.integers(1, 7), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_every_cycle_holds_each_source_s_share_and_skips_nothing(shares, seed):
    block = sum(shares)
    sources, within = source_at(np.arange(5 * block), shares, seed)
    for source, share in enumerate(shares):
        assert sorted(within[sources == source].tolist()) == list(range(5 * share))
    per_block = sources.reshape(5, block)
    assert all(np.bincount(row, minlength=len(shares)).tolist() == shares for row in per_block)


def test_a_seed_gives_the_same_order_as_in_earlier_versions():
    """Resuming relies on this: if it fails, raise SCHEMA_VERSION of corpus.shards.format."""
    rows = np.array([5, 7, 11])
    assert sample_at(np.arange(8), rows, 1)[0].tolist() == [16, 17, 11, 5, 7, 12, 2, 22]
    assert sample_at(np.arange(8), rows, 1, window=2)[0].tolist() == [10, 3, 4, 2, 6, 7, 0, 8]
    assert source_at(np.arange(8), (1, 3), 1)[0].tolist() == [1, 1, 0, 1, 0, 1, 1, 1]
