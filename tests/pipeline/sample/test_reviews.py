"""Reviews to sentiment data."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import CorpusError
from pipeline.sample.reviews import split_reviews

REVIEW = st.text("好坏书店酒", min_size=4, max_size=8)


@given(st.lists(REVIEW, min_size=30), st.lists(REVIEW, min_size=30))
def test_sets_are_balanced_disjoint_and_labelled_by_file(positive, negative):
    distinct = [set(positive) - set(negative), set(negative) - set(positive)]
    if min(map(len, distinct)) <= 4:
        with pytest.raises(CorpusError, match="distinct reviews"):
            split_reviews(positive, negative, 4)
        return
    splits = split_reviews(positive, negative, 4)
    rows = [row for part in splits for row in part]
    assert len({row["text"] for row in rows}) == len(rows) == 2 * min(map(len, distinct))
    for row in rows:
        assert row["text"] in distinct[1 - row["label"]]
    for part in splits:
        assert sum(row["label"] for row in part) * 2 == len(part)
    assert splits == split_reviews(positive, negative, 4)


def test_reviews_that_differ_in_marks_or_only_late_count_once():
    long = "这本书的内容非常充实而且印刷质量很好值得推荐给每一位喜欢阅读的朋友们"
    positive = [long, long + "！", long[:-1] + "吧", "。。。", "好书一本", "物有所值", "相当不错"]
    train, dev, test = split_reviews(positive, ["不好不好", "很差很差", "退货退货"], 2)
    texts = [row["text"] for part in (train, dev, test) for row in part]
    assert len(texts) == 6
    assert sum(text.startswith("这本书") for text in texts) <= 1
    assert "。。。" not in texts
