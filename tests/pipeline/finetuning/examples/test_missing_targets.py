"""Examples without a target: left out, or predicted."""

import json

import pytest

from pipeline.finetuning.examples.task_file import DataMistakes
from pipeline.finetuning.tasks import TASKS
from tests.pipeline.finetuning.examples.reading import lines, read
from tests.pipeline.finetuning.examples.test_formats import SQUAD


@pytest.mark.parametrize("key", ["label", "gold_label"])
def test_examples_without_a_gold_label_are_left_out_and_counted(key, tmp_path):
    rows = [{"sentence1": "甲", "sentence2": "乙", key: label} for label in ("-", "neutral")]
    examples, findings = read("pair", tmp_path / "ocnli.json", lines(*rows))
    assert [each["label"] for each in examples] == ["neutral"]
    assert "1 of 2 examples are left out" in findings.notes[0]


def test_minus_beside_plus_is_a_label(tmp_path):
    rows = [{"text": "好", "label": label} for label in "+-0-"]
    examples, findings = read("classification", tmp_path / "a.jsonl", lines(*rows))
    assert [each["label"] for each in examples] == list("+-0-")
    assert findings == DataMistakes.none()
    # A dev file without + follows the labels of the training examples.
    for labels, kept in ((["+", "-"], 1), (["+", "0"], 0)):
        examples, findings = read(
            "classification", tmp_path / "b.jsonl", lines(rows[1]), labels=labels
        )
        assert (len(examples), len(findings.notes)) == (kept, 1 - kept)


def test_an_empty_cell_of_labels_says_that_there_is_none(tmp_path):
    text = "text\ttags\n好\t甲\n坏\t\n"
    examples, findings = read("multilabel", tmp_path / "a.tsv", text)
    assert findings == DataMistakes.none()
    assert [each["labels"] for each in examples] == [["甲"], []]
    text = "text\ttags\n好\t\n坏\t\n"
    examples, _ = read("multilabel", tmp_path / "b.tsv", text, target_needed=False)
    assert examples == [{"text": "好"}, {"text": "坏"}]


def test_questions_without_any_answer_are_predicted(tmp_path):
    row = {"context": "在北京。", "question": "哪？", "answers": []}
    examples, findings = read("span", tmp_path / "a.jsonl", lines(row, row), target_needed=False)
    assert (examples, findings) == (
        [{"context": "在北京。", "question": "哪？"}] * 2,
        DataMistakes.none(),
    )
    answered = row | {"answers": ["北京"]}
    examples, findings = read("span", tmp_path / "b.jsonl", lines(row, answered))
    assert [len(each["answers"]) for each in examples] == [0, 1]
    assert "1 of 2 questions have no answer" in findings.notes[0]
    wrong = row | {"is_impossible": False}
    findings = read("span", tmp_path / "c.jsonl", lines(wrong, answered))[1]
    assert "line 1, key answers: expected at least one answer" in findings.bad_lines[0]


def test_a_test_set_has_no_targets(tmp_path):
    hidden = json.loads(json.dumps(SQUAD).replace("\\u5317\\u4eac", "FAKE_ANSWER_1"))
    (example,), findings = read(
        "span", tmp_path / "a.json", json.dumps(hidden), target_needed=False
    )
    assert "answers" not in example
    assert findings.bad_lines == []


def test_a_label_that_is_null_is_none(tmp_path):
    text = lines({"text": "好", "label": None}, {"text": "坏", "label": None})
    examples, findings = read("classification", tmp_path / "a.jsonl", text, target_needed=False)
    assert (examples, findings) == ([{"text": "好"}, {"text": "坏"}], DataMistakes.none())


@pytest.mark.parametrize(
    ("values", "known", "taken"),
    [([-1, -1], ("0", "1"), True), ([-1, 1], ("0", "1"), False), ([-1, -1], ("-1", "1"), False)],
)
def test_a_test_set_whose_labels_are_all_minus_one_has_none(tmp_path, values, known, taken):
    rows = [{"text": text, "label": value} for text, value in zip("好坏", values, strict=True)]
    given = {"labels": known, "target_needed": False}
    examples, findings = read("classification", tmp_path / "a.jsonl", lines(*rows), **given)
    assert any("stands for none" in note for note in findings.notes) == taken
    assert [example for example in examples if "label" not in example] == examples * taken


def test_an_empty_answer_is_none(tmp_path):
    row = {"context": "甲", "question": "乙", "choice": ["丙", "丁"], "answer": ""}
    (example,), findings = read("choice", tmp_path / "a.jsonl", lines(row), target_needed=False)
    assert findings == DataMistakes.none()
    assert "answer" not in example
    _, findings = read("choice", tmp_path / "a.jsonl")
    assert "no key 'answer'" in findings.bad_lines[0]


FIELDS = {
    "classification": {"text": "好"},
    "multilabel": {"text": "好"},
    "regression": {"text": "好"},
    "pair": {"sentence1": "甲", "sentence2": "乙"},
    "similarity": {"sentence1": "甲", "sentence2": "乙"},
    "ner": {"tokens": ["王", "明"]},
    "choice": {"context": "甲", "question": "乙", "choices": ["丙", "丁"]},
    "span": {"context": "在北京。", "question": "哪？"},
}


@pytest.mark.parametrize("task", FIELDS)
@pytest.mark.parametrize("values", [(None, None), ("", ""), (" ", None), ([], [])])
def test_a_target_that_holds_nothing_is_none_for_each_task(task, values, tmp_path):
    rows = [FIELDS[task] | {TASKS[task].target: value} for value in values]
    given = {"target_needed": False}
    examples, findings = read(task, tmp_path / "a.jsonl", lines(*rows), **given)
    assert (examples, findings) == ([FIELDS[task]] * 2, DataMistakes.none())
    if task != "multilabel":  # of which an empty list says that no label holds
        findings = read(task, tmp_path / "a.jsonl")[1]
        told = ("no question has an answer", "no example has the key")
        assert len(findings.bad_lines) == 2 or any(each in findings.problems[0] for each in told)


def test_an_empty_cell_in_each_row_is_no_label(tmp_path):
    for task, text in (
        ("classification", "text,label\n好,\n坏, \n"),
        ("regression", "text,label\n好, \n坏,\n"),
        ("pair", "sentence1,sentence2,label\n甲,乙,\n"),
        ("span", "context,question,answers\n在北京,哪,\n"),
    ):
        examples, findings = read(task, tmp_path / "a.csv", text, target_needed=False)
        assert findings == DataMistakes.none()
        assert [each for each in examples if TASKS[task].target in each] == []


@pytest.mark.parametrize("key", ["label", "labels", "entities"])
def test_a_text_without_entities_beside_others(key, tmp_path):
    rows = [{"text": "王明", key: [[0, 2, "P"]]}, {"text": "在", key: []}]
    examples, findings = read("ner", tmp_path / "a.jsonl", lines(*rows), target_needed=False)
    assert findings == DataMistakes.none()
    assert [each["labels"] for each in examples] == [["B-P", "I-P"], ["O"]]
    (example,), _ = read("ner", tmp_path / "b.jsonl", lines(rows[1]), target_needed=False)
    assert "labels" not in example
