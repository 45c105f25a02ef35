import numpy as np
import pytest

from pipeline.corpus.dedup import marks
from pipeline.corpus.records import Document
from pipeline.errors import CorpusError
from tests.pipeline.corpus.dedup.test_grouping import LONG, PARAGRAPHS, run


def test_what_is_left_of_a_document_is_checked_again(tmp_path):
    chunks = [[LONG[0], f"题\n{LONG[0]}", f"题目\n{LONG[0]}\n{LONG[1]}", "短"]]
    kept, dropped, _ = run(tmp_path, chunks, PARAGRAPHS, shortest=8)
    # "短" is whole: whether it is long enough was decided before.
    assert kept == [[LONG[0], f"题目\n{LONG[1]}", "短"]]
    assert ("too_short_after_dedup", "0:1") in dropped
    assert len(dropped) == 3


@pytest.mark.parametrize(("documents", "paragraphs"), [(1, 2), (3, 2), (2, 1), (2, 3)])
def test_text_that_is_not_the_one_that_was_compared_is_refused(tmp_path, documents, paragraphs):
    marked = marks.Marks(
        np.zeros(documents, np.uint8), np.zeros(paragraphs, np.uint8), np.zeros((0, 2), np.int64)
    )
    marks.write_marks(str(tmp_path), "a", marked)
    records = [Document(number, LONG[number], "") for number in range(2)]
    with pytest.raises(CorpusError, match="not the one in which duplicates were found"):
        list(marks.without_duplicates(records, str(tmp_path), "a", PARAGRAPHS, lambda text: "", []))
