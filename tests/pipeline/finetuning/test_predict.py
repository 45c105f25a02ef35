"""Predictions: JSON or text in, answers out."""

import json
from pathlib import Path

import pytest

from pipeline.errors import ExportError, TaskError
from pipeline.finetuning import predict as prediction
from pipeline.finetuning.finetune import finetune
from pipeline.finetuning.jsonl import read_lines
from pipeline.finetuning.predict import parse, predict
from pipeline.finetuning.tasks import TASKS
from pipeline.settings.finetuning import FinetuneSettings


@pytest.fixture(scope="module")
def head(export, data, tmp_path_factory):
    """A fine-tuned folder for a task."""

    def make(task):
        folder = tmp_path_factory.mktemp("heads") / task
        values = {"task": task, "epochs": 4, "lr": 5e-3, "batch": 16, "dropout": 0.0}
        chosen = FinetuneSettings.model_validate(values | {"data": data[task] | {"length": 48}})
        return finetune(chosen, str(export), folder, seed=1)

    return make


@pytest.mark.parametrize("task", TASKS)
def test_predictions_score_what_fine_tuning_reported(task, head, data, monkeypatch):
    """The saved folder, read again in small blocks, answers as the network that was scored."""
    monkeypatch.setattr(prediction, "LINES", 7)
    result = head(task)
    found = list(predict(result.folder, read_lines(data[task]["test"])))
    truth = TASKS[task].read(data[task]["test"])
    assert [{**row, "prediction": None} for row in found] == [
        {key: row[key] for key in row if key != TASKS[task].target} | {"prediction": None}
        for row in truth
    ]
    scores = TASKS[task].scores(truth, [row["prediction"] for row in found])
    assert scores == pytest.approx(result.test, abs=0.02)
    if task == "ner":
        text = ["王明在京，李华说"]
        answers = [
            next(predict(result.folder, [("here", line)]))
            for line in (text[0], json.dumps({"text": text[0]}), json.dumps({"tokens": [*text[0]]}))
        ]
        assert answers[0]["text"] == text[0]
        assert answers[0]["prediction"] == answers[1]["prediction"] == answers[2]["prediction"]
        for entity in answers[0]["prediction"]["entities"]:
            assert text[0][entity["start"] : entity["end"]] == entity["text"]


def test_plain_text_lines():
    assert parse(TASKS["classification"], "很好", "x") == {"text": "很好"}
    assert parse(TASKS["pair"], "很\t好", "x") == {"sentence1": "很", "sentence2": "好"}
    assert parse(TASKS["ner"], "京 ", "x") == {"text": "京 ", "tokens": ["京", " "]}
    with pytest.raises(TaskError, match="x: expected two texts with a tab"):
        parse(TASKS["pair"], "很好", "x")
    with pytest.raises(TaskError, match="x: expected JSON with context, question, choices"):
        parse(TASKS["choice"], "很好", "x")
    with pytest.raises(TaskError, match="x: no key 'sentence2'"):
        parse(TASKS["pair"], '{"sentence1": "a"}', "x")
    with pytest.raises(TaskError, match="x: not JSON"):
        parse(TASKS["ner"], '{"text": ', "x")


def test_another_folder_is_refused(export):
    with pytest.raises(ExportError, match=r"not the result of `python -m jobs\.finetune`"):
        next(predict(str(export), [("x", "京")]))
    assert Path(export, "config.json").exists()
