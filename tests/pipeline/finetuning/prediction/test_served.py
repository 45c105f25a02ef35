"""Rows that a served head takes, and its answers."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from mlflow.models.utils import _enforce_schema
from mlflow.types import ColSpec, Schema
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from pipeline.errors import TaskError
from pipeline.finetuning.prediction.predict import Head
from pipeline.finetuning.prediction.served import ServedHead
from pipeline.finetuning.tasks import TASKS
from pipeline.finetuning.tasks.base import TaskSetup

WORDS = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"?": 0}, "?")))


class Echo(Head):
    """Answers `yes` without a network."""

    def answers(self, examples, batch=1):
        yes = dict.fromkeys(self.task.answer_form, "yes")
        return [None if self.task.blank(each) else yes for each in examples]


def served(task, table):
    head = ServedHead()
    head.head = Echo(TASKS[task], TaskSetup(WORDS, (), 32), None, "fp32")
    return head.predict(None, table)


def test_requests_that_come_together_are_answered_one_after_another():
    """One that cut its question changed how the context of another was cut."""
    inside, most = [], []

    class Slow(Echo):
        def answers(self, examples, batch=1):
            inside.append(examples)
            time.sleep(0.05)
            most.append(len(inside))
            inside.pop()
            return super().answers(examples, batch)

    head = ServedHead()
    head.head = Slow(TASKS["span"], TaskSetup(WORDS, (), 32), None, "fp32")
    rows = pd.DataFrame([{"context": "在北京", "question": "哪？"}])
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: head.predict(None, rows), range(4)))
    assert most == [1] * 4


def answers(task, *rows):
    return served(task, pd.DataFrame(rows)).to_dict("records")


@pytest.mark.parametrize("absent", [None, float("nan"), pd.NA, "", " "])
@pytest.mark.parametrize(
    ("task", "key", "others"),
    [
        ("classification", "text", {}),
        ("pair", "sentence2", {"sentence1": "甲"}),
        ("ner", "text", {}),
        ("span", "question", {"context": "在北京"}),
    ],
)
def test_a_text_without_a_value_gets_the_empty_answer(task, key, others, absent):
    first, second = answers(task, others | {key: "好"}, others | {key: absent})
    assert set(first.values()) == {"yes"}
    assert set(second.values()) == {None}


def test_words_may_stand_in_place_of_the_text():
    rows = {"text": "王明"}, {"tokens": np.array(["王", "明"])}
    assert [set(each.values()) for each in answers("ner", *rows)] == [{"yes"}] * 2


def test_a_text_that_is_not_among_the_columns_is_an_error():
    with pytest.raises(TaskError, match="row 0: no key 'text'"):
        answers("classification", {"txt": "好"})


@pytest.mark.parametrize(
    "columns", [{"text": ["好", " "]}, {"sentence1": ["好", "好"], "sentence2": ["甲", " "]}]
)
def test_lists_of_texts_by_column_are_rows(columns):
    """As `load_model(…).predict({"text": […]})` gives them; MLflow hands over the table."""
    schema = Schema([ColSpec("string", key) for key in columns])
    task = "classification" if "text" in columns else "pair"
    found = served(task, _enforce_schema(columns, schema))
    assert [set(each.values()) for each in found.to_dict("records")] == [{"yes"}, {None}]


@pytest.mark.parametrize("index", [[7, 3], ["b", "a"], [0, 0]])
def test_answers_have_the_index_of_their_texts(index):
    texts = pd.DataFrame({"text": ["好", " "]}, index=index)
    assert served("classification", texts)["label"].to_list() == ["yes", None]
    assert served("classification", texts).index.to_list() == index
    assert served("classification", texts[:0]).index.to_list() == []
