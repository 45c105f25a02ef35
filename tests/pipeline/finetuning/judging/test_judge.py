"""Shares of single examples, calibration, confusion, the worst, and the trivial baseline."""

import pytest

from pipeline.finetuning.judging import judge as judging
from pipeline.finetuning.tasks import TASKS

ENTITY = {"text": "张明", "type": "PER", "start": 0, "end": 2, "probability": 0.9}
CASES = {
    "classification": (
        [{"text": "好", "label": "1"}, {"text": "坏", "label": "0"}],
        [
            {"label": "1", "probabilities": {"0": 0.2, "1": 0.8}},
            {"label": "1", "probabilities": {"0": 0.4, "1": 0.6}},
        ],
    ),
    "ner": (
        [
            {"tokens": [*"张明在京"], "labels": ["B-PER", "I-PER", "O", "B-LOC"]},
            {"tokens": [*"很好"], "labels": ["O", "O"]},
        ],
        [
            {"labels": ["B-PER", "I-PER", "O", "O"], "entities": [ENTITY]},
            {"labels": ["B-LOC", "I-LOC"], "entities": [ENTITY | {"type": "LOC"}]},
        ],
    ),
    "choice": (
        [{"context": "", "question": "", "choices": ["a", "b"], "answer": 1}] * 2,
        [
            {"answer": 1, "choice": "b", "probabilities": [0.1, 0.9]},
            {"answer": 0, "choice": "a", "probabilities": [0.7, 0.3]},
        ],
    ),
    "span": (
        [
            {
                "context": "北京。上海很好。",
                "question": "?",
                "answers": [{"text": "上海", "start": 3}],
            },
            {
                "context": "北京。上海很好。",
                "question": "?",
                "answers": [{"text": "北京", "start": 0}],
            },
        ],
        [
            {"answer": "上海很", "candidates": [{"probability": 0.5}]},
            {"answer": "北京", "candidates": [{"probability": 0.7}]},
        ],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_shares_add_up_to_the_score(name):
    task, (examples, found) = TASKS[name], CASES[name]
    total = judging.shares(task, examples, found).sum(0)
    assert judging.ratio(total) == pytest.approx(task.scores(examples, found)[task.metric])


def test_confidences_and_confusion_and_the_worst():
    judged = judging.judge(TASKS["classification"], *CASES["classification"])
    assert judged.confidences == [(0.8, True), (0.6, False)]
    assert judged.calibration_error == pytest.approx((0.2 + 0.6) / 2)
    assert (judged.labels, judged.confusion) == (["0", "1"], [[0, 1], [0, 1]])
    assert [(each["score"], each["example"]["text"]) for each in judged.worst] == [(0, "坏")]
    entities = judging.judge(TASKS["ner"], *CASES["ner"])
    assert entities.confidences == [(0.9, True), (0.9, False)]
    assert entities.labels == ["LOC", "O", "PER"]
    assert entities.confusion == [[0, 1, 0], [2, 1, 0], [0, 0, 2]]
    spans = judging.judge(TASKS["span"], *CASES["span"])
    assert spans.confidences == [(0.5, False), (0.7, True)]
    assert spans.confusion == []


def test_the_confusion_of_thousands_of_labels_is_left_out(monkeypatch):
    """A picture of 5,000 labels took hours, and showed nothing."""
    examples, found = CASES["classification"]
    assert judging.judge(TASKS["classification"], examples, found).confusion == [[0, 1], [0, 1]]
    monkeypatch.setattr(judging, "CONFUSED", 1)
    judged = judging.judge(TASKS["classification"], examples, found)
    assert (judged.labels, judged.confusion) == (["0", "1"], [])
