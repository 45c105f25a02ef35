"""What a submission to CLUE calls its answers."""

import json

import pytest

from pipeline.errors import TaskError
from pipeline.finetuning.submission import submission
from pipeline.finetuning.tasks import TASKS
from tests.pipeline.finetuning.examples.test_formats import CLUENER

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


def test_submissions_are_those_that_clue_takes():
    def rows(task, *given):
        return [json.loads(line) for line in submission(TASKS[task], given)]

    label = {"label": "108", "probabilities": {"108": 1.0}}
    assert rows("classification", {"id": 3, "text": "", "prediction": label}) == [
        {"id": 3, "label": "108"}
    ]
    assert rows("classification", {"text": "", "prediction": label})[0]["id"] == 0
    given = {
        "text": CLUENER["text"],
        "prediction": {"entities": [{"text": "浙商银行", "type": "company", "start": 4, "end": 8}]},
    }
    assert rows("ner", given) == [{"id": 0, "label": {"company": {"浙商银行": [[4, 7]]}}}]
    both = [{"id": "a", "prediction": {"answer": 1}}, {"id": "a", "prediction": {"answer": 0}}]
    assert rows("choice", *both) == [{"id": 0, "label": 1}, {"id": 1, "label": 0}]
    blanks = [{"id": f"#idiom00000{i}#", "prediction": {"answer": i}} for i in (3, 2)]
    assert rows("choice", *blanks) == [{"#idiom000003#": 3, "#idiom000002#": 2}]
    assert rows(
        "span", {"id": "Q", "prediction": {"answer": "北京"}}, {"id": "R", "prediction": None}
    ) == [{"Q": "北京", "R": ""}]
    unnamed = [{"id": None, "prediction": {"answer": text}} for text in ("北京", "上海")]
    assert rows("span", *unnamed) == [{"0": "北京", "1": "上海"}]
