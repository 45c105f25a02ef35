import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus.dedup.clusters import count_clusters, equal_pairs, join, repeats


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30))
def test_join_finds_connected_components(edges):
    labels = list(range(20))
    for _ in range(20):
        for a, b in edges:
            labels[a] = labels[b] = min(labels[a], labels[b])
    found = join(20, [np.array(edges, np.int64).reshape(-1, 2)])
    assert found.tolist() == labels
    assert count_clusters(found) == sum(labels.count(label) > 1 for label in set(labels))


@given(st.lists(st.integers(0, 5), max_size=12))
def test_equal_hashes_are_paired_with_the_first_one(values):
    hashes = np.array(values, np.uint64)
    expected = [
        [place, values.index(value)]
        for place, value in enumerate(values)
        if values.index(value) < place
    ]
    assert equal_pairs(hashes).tolist() == expected
    assert repeats(hashes).tolist() == [place for place, _ in expected]
