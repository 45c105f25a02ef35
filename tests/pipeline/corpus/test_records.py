from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus.records import batches


@given(st.lists(st.integers(0, 9)), st.integers(1, 30))
def test_batches_hold_all_items_in_order_and_end_at_the_limit(sizes, limit):
    found = list(batches(sizes, int, limit))
    assert [size for batch in found for size in batch] == sizes
    assert all(sum(batch) >= limit for batch in found[:-1])
    assert all(batch and sum(batch[:-1]) < limit for batch in found)
