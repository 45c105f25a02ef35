"""Questions that their context does not answer, as in SQuAD 2.0."""

import json
import random

import pytest

from pipeline.finetuning.judging import metrics
from pipeline.finetuning.prediction.predict import predict
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
        given = passage(draw)
        if draw.random() < 0.5:
            return given
        blanked = given["context"].replace(given["answers"][0]["text"], "很太")
        return given | {"context": blanked, "answers": []}

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
