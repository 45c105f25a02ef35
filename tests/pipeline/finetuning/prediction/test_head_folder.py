"""What a submission to CLUE calls its answers."""

import pytest

from pipeline.errors import TaskError
from pipeline.finetuning.prediction.head_folder import submission
from pipeline.finetuning.tasks import TASKS

ANSWERS = {"classification": {"label": "1"}, "span": {"answer": "北京"}}


@pytest.mark.parametrize("task", ANSWERS)
@pytest.mark.parametrize(
    ("ids", "told"),
    [
        (["a", "b", "a"], "examples 1 and 3, counted from 1, would both have the id 'a'"),
        ([5, None, 1], "examples 2 and 3, counted from 1, would both have the id '1'"),
        ([1, "1"], "examples 1 and 2, counted from 1, would both have the id '1'"),
    ],
)
def test_no_two_answers_have_one_id(task, ids, told):
    rows = [{"id": key, "prediction": ANSWERS[task]} for key in ids]
    with pytest.raises(TaskError, match=told):
        list(submission(TASKS[task], rows))


def test_examples_with_and_without_ids_may_stand_together():
    rows = [{"id": key, "prediction": ANSWERS["span"]} for key in (5, None, "x", None)]
    assert list(submission(TASKS["span"], rows)) == [
        '{"5": "北京", "1": "北京", "x": "北京", "3": "北京"}\n'
    ]
