import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus.dedup.clusters import equal_pairs, join, large_star, small_star

EDGES = st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30)


def components(edges):
    labels = list(range(20))
    for _ in range(20):
        for a, b in edges:
            labels[a] = labels[b] = min(labels[a], labels[b])
    return labels


@given(EDGES)
def test_join_finds_connected_components(edges):
    found = join(20, [np.array(edges, np.int64).reshape(-1, 2)])
    assert found.tolist() == components(edges)


@given(EDGES)
def test_stars_end_with_connected_components(edges):
    pairs = np.array([(a, b) for a, b in edges if a != b], np.int64).reshape(-1, 2)
    for turn in range(40):
        both = np.concatenate([pairs, pairs[:, ::-1]])
        least = np.arange(20)
        np.minimum.at(least, both[:, 0], both[:, 1])
        pairs = (small_star if turn % 2 else large_star)(both, least[both[:, 0]])
    found = np.arange(20)
    np.minimum.at(found, pairs[:, 0], pairs[:, 1])
    assert found.tolist() == components(edges)


@given(st.lists(st.integers(0, 5), max_size=12))
def test_equal_hashes_are_paired_with_the_first_one(values):
    numbers = np.arange(len(values)) + 7
    expected = [
        [place + 7, values.index(value) + 7]
        for place, value in enumerate(values)
        if values.index(value) < place
    ]
    assert equal_pairs(np.array(values, np.uint64), numbers).tolist() == expected
