"""Questions that their context does not answer, as in SQuAD 2.0."""

import json
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig

from pipeline.finetuning import loading
from pipeline.finetuning.judging import metrics
from pipeline.finetuning.prediction.predict import predict
from pipeline.finetuning.tasks import TASKS
from pipeline.finetuning.tasks.base import TaskSetup
from pipeline.finetuning.tasks.span import best_threshold
from tests.pipeline.finetuning.conftest import passage, settings, write_rows
from tests.pipeline.finetuning.examples.reading import read
from tests.pipeline.finetuning.in_process import finetune

ANSWERED = {"text": "北京", "answer_start": 1}


@pytest.mark.parametrize(
    "question",
    [
        {"answers": [], "is_impossible": True},
        {"is_impossible": True, "plausible_answers": [ANSWERED]},
        {"answers": [{"text": "", "answer_start": -1}], "is_impossible": True},  # DuReader
        {"answers": [], "is_impossible": "true"},  # CAIL
        {"answers": {"text": [], "answer_start": []}},  # Hugging Face
    ],
)
def test_published_questions_without_an_answer(question, tmp_path):
    asked = [{"question": "哪？", "id": "1", "answers": [ANSWERED], "is_impossible": "false"}]
    asked.append({"question": "谁？", "id": "2", **question})
    document = {"data": [{"paragraphs": [{"context": "在北京。", "qas": asked}]}]}
    examples, findings = read("span", tmp_path / "a.json", json.dumps(document))
    assert [each["answers"] for each in examples] == [[{"text": "北京", "start": 1}], []]
    assert findings.bad_lines == []


def test_they_are_scored_as_squad_scores_them():
    truth = [["北京"], [""], [""], ["北京", "京"]]
    scores = metrics.spans(truth, ["北京", "", "上海", ""])
    assert scores == {
        "f1": 0.5,
        "exact_match": 0.5,
        "f1_with_answer": 0.5,
        "f1_without_answer": 0.5,
    }


def test_a_head_learns_to_answer_nothing(export, tmp_path):
    def row(draw):
        own = passage(draw)
        if draw.random() < 0.5:
            return own
        blanked = own["context"].replace(own["answers"][0]["text"], "很太")
        return own | {"context": blanked, "answers": []}

    files = {
        split: write_rows(tmp_path / f"{split}.jsonl", *(row(draw) for _ in range(size)))
        for split, size in {"train": 240, "dev": 60, "test": 60}.items()
        for draw in [random.Random(split)]
    }
    chosen = settings("span", {"span": files}, epochs=8)
    result = finetune(chosen, str(export), tmp_path / "head", seed=1)
    assert min(result.test.values()) > 0.8
    asked = [passage(random.Random(1)), {"context": "很太的书店", "question": "是？"}]
    lines = [("here", json.dumps(each)) for each in asked]
    first, second = (each["prediction"]["answer"] for each in predict(result.folder, lines))
    assert first == asked[0]["answers"][0]["text"]
    assert second == ""
    threshold = json.loads((tmp_path / "head" / "results.json").read_text("utf-8"))["no_answer"]
    named = AutoConfig.from_pretrained(result.folder, trust_remote_code=False)
    assert named.null_score_diff_threshold == threshold


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-1, 1)), min_size=1))
def test_the_threshold_is_the_best_one(pairs):
    values, gains = np.array(pairs, float).T

    def gained(threshold):
        return gains[values > threshold].sum()

    best = max(map(gained, np.arange(-4.5, 5)))
    found = best_threshold(values, gains)
    assert gained(found) == best
    assert found == 0 or gained(0) < best


def test_dev_tells_what_no_answer_must_score(export):
    examples = [passage(random.Random(0)), {"context": "很太", "question": "是？", "answers": []}]
    task, tokenizer = TASKS["span"], loading.load_tokenizer(str(export))
    setup = TaskSetup(tokenizer, [], 96, unanswerable=True)
    outputs = []
    for feature, of_none in zip(task.features(examples, setup), (2.0, 3.0), strict=True):
        logits = np.zeros((2, feature.length))
        logits[[0, 1], feature.target] = 1
        logits[:, 0] = of_none
        outputs.append([(feature, logits)])

    def f1(chosen, numbers):
        own = [examples[i] for i in numbers]
        return task.scores(own, task.answers(own, [outputs[i] for i in numbers], chosen))["f1"]

    tuned = task.tuned(setup, examples, outputs)
    assert f1(setup, [0, 1]) == 0.5
    assert f1(tuned, [0, 1]) == 1
    assert task.tuned(setup, examples[:1], outputs[:1]) == setup  # which tells nothing of the other
