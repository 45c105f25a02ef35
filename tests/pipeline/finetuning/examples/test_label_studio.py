"""Entities and choices that Label Studio exports: JSON, JSON_MIN and CSV."""

import json

import pytest

from pipeline.finetuning.tasks import TASKS
from tests.pipeline.finetuning.examples.reading import read


def label_studio(*results, **data):
    annotations = [{"id": 9, "was_cancelled": False, "result": each} for each in results]
    annotations.append({"was_cancelled": True, "result": results[0]})
    return json.dumps(
        [{"id": 1, "data": {"text": "王明在北京。"} | data, "annotations": annotations}]
    )


def control(name, value):
    return {"id": "a", "from_name": name, "to_name": "text", "value": value}


def test_entities_of_label_studio(tmp_path):
    places = [
        {"start": 0, "end": 2, "text": "王明", "labels": ["人名"]},
        {"start": 3, "end": 5, "labels": ["地名"]},
    ]
    labels = ["B-人名", "I-人名", "O", "B-地名", "I-地名", "O"]
    marked = [*(control("label", each) for each in places), {"type": "relation", "from_id": "a"}]
    examples, findings = read("ner", tmp_path / "a.json", label_studio(marked, []))
    assert [each["labels"] for each in examples] == [labels, ["O"] * 6]
    assert findings.bad_lines == []
    minimal = [{"id": 1, "text": "王明在北京。", "label": places, "annotator": 1}]
    assert read("ner", tmp_path / "b.json", json.dumps(minimal))[0][0]["labels"] == labels
    cell = json.dumps(places).replace('"', '""')
    text = f'id,label,text\n1,"{cell}",王明在北京。\n'
    assert read("ner", tmp_path / "c.csv", text)[0][0]["labels"] == labels
    places[0]["labels"] = ["人名", "地名"]
    findings = read("ner", tmp_path / "b.json", json.dumps(minimal))[1]
    assert "an entity from 0 to 2 of type ['人名', '地名']" in findings.bad_lines[0]


@pytest.mark.parametrize(
    ("task", "choices", "minimal"),
    [
        ("classification", ["正"], "正"),
        ("multilabel", ["正"], "正"),
        ("multilabel", ["正", "长"], {"choices": ["正", "长"]}),
    ],
)
def test_choices_of_label_studio(task, choices, minimal, tmp_path):
    target = TASKS[task].target
    columns = {"columns": {target: "topic"}}
    whole = label_studio([control("topic", {"choices": choices})])
    short = json.dumps([{"id": 1, "text": "很好", "topic": minimal}])
    for text in (whole, short):
        (example,), _ = read(task, tmp_path / "a.json", text, **columns)
        assert example[target] == (choices[0] if task == "classification" else choices)
