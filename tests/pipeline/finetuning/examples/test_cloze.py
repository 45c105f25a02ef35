"""ChID as CLUE, FewCLUE and its authors publish it."""

import json

import numpy as np
import pytest

from pipeline.finetuning import loading
from pipeline.finetuning.examples.cloze import OTHER
from pipeline.finetuning.examples.input_lines import read_input
from pipeline.finetuning.tasks import TASKS
from pipeline.finetuning.tasks.base import TaskSetup
from tests.pipeline.finetuning.examples.reading import lines, read

IDIOMS = ["百尺竿头", "随波逐流", "方兴未艾"]
CLUE = {"content": ["甲#idiom000000#乙", "#idiom000001#丙#idiom000002#"], "candidates": IDIOMS}
ANSWERS = {"#idiom000000#": 2, "#idiom000001#": 0, "#idiom000002#": 1}


def question(before, after, **more):
    return {"context": "", "question": before, "after": after, "choices": IDIOMS} | more


GROUP = {"blank_group": "#idiom000000#"}
BLANKS = [
    question("甲", "乙", id="#idiom000000#", **GROUP),
    question("", f"丙{OTHER}", id="#idiom000001#", **GROUP),
    question(f"{OTHER}丙", "", id="#idiom000002#", **GROUP),
]


def test_clues_answers_stand_in_a_file_beside(tmp_path):
    examples, findings = read("choice", tmp_path / "train.json", lines(CLUE))
    assert "train_answer.json beside it" in findings.problems[0]
    (tmp_path / "train_answer.json").write_text(json.dumps(ANSWERS, indent=1), "utf-8")
    examples, findings = read("choice", tmp_path / "train.json")
    assert examples == [each | {"answer": ANSWERS[each["id"]]} for each in BLANKS]
    assert findings.bad_lines == findings.notes == []


def test_clues_test_set_has_no_answers(tmp_path):
    examples, _ = read("choice", tmp_path / "test1.1.json", lines(CLUE), target_needed=False)
    assert examples == BLANKS
    found = read_input(str(tmp_path / "test1.1.json"), TASKS["choice"], {})
    assert [record for _, record in found] == BLANKS


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            {"id": 7, "content": "甲#idiom#乙", "candidates": IDIOMS, "answer": 1},
            [question("甲", "乙", id=7, answer=1)],
        ),
        (
            {
                "content": "甲#idiom#乙#idiom#",
                "realCount": 2,
                "groundTruth": [IDIOMS[2], "言行一致"],
                "candidates": [IDIOMS, ["草木皆兵", "言行一致"]],
            },
            [
                question("甲", f"乙{OTHER}", answer=2),
                question(f"甲{OTHER}乙", "", choices=["草木皆兵", "言行一致"], answer=1),
            ],
        ),
    ],
)
def test_other_releases(row, expected, tmp_path):
    examples, findings = read("choice", tmp_path / "train.json", lines(row))
    assert examples == expected
    assert findings.bad_lines == []


@pytest.mark.parametrize("change", [{"content": 3}, {"content": "甲"}, {"candidates": []}])
def test_what_is_no_cloze_is_named(change, tmp_path):
    row = {"content": "甲#idiom#", "candidates": IDIOMS, "answer": 1} | change
    examples, findings = read("choice", tmp_path / "train.json", lines(row))
    assert examples == []
    assert "train.json, line 1" in findings.bad_lines[0]


def test_an_idiom_stands_once_in_a_group(export):
    task, setup = TASKS["choice"], TaskSetup(loading.load_tokenizer(str(export)), [], 40)
    other = question("", "", id="#idiom000003#", blank_group="#idiom000003#")
    examples = [*BLANKS, other, question("", "")]
    logits = [[3, 2, 0], [5, 0, 1], [4, 0, 3.5], [3, 2, 0], [3, 2, 0]]
    outputs = [[(None, np.array(each, float))] for each in logits]
    found = task.answers(examples, outputs, setup)
    assert [each["answer"] for each in found] == [1, 0, 2, 0, 0]
    assert [each["choice"] for each in found[:3]] == [IDIOMS[1], IDIOMS[0], IDIOMS[2]]
    ((probability, right),) = task.confidences(BLANKS[0] | {"answer": 1}, found[0])
    assert probability < 0.5
    assert right
    # There may be fewer idioms than blanks.
    found = task.answers([BLANKS[0]] * 4, outputs[:1] * 4, setup)
    assert sorted(each["answer"] for each in found) == [0, 0, 1, 2]


@pytest.mark.parametrize(
    ("before", "after"), [(100, 100), (100, 3), (3, 100), (0, 100), (100, 0), (3, 3)]
)
def test_what_stands_around_a_blank_is_seen(before, after, export):
    tokenizer = loading.load_tokenizer(str(export))
    example = question("书" * before, "店" * after, choices=["一二三四", "五六"])
    (feature,) = TASKS["choice"].features([example], TaskSetup(tokenizer, [], 40))
    room = 40 - 3 - 4
    for choice, each in zip(example["choices"], feature.inputs, strict=True):
        text = tokenizer.decode(each.ids).replace(" ", "")
        seen = (text.count("书"), text.count("店"))
        whole = "书" * seen[0] + choice + "店" * seen[1]
        assert text == f"[CLS][SEP]{whole}[SEP]"
        assert len(each.ids) <= 40
        assert all(n >= min(given, 16) for n, given in zip(seen, (before, after), strict=True))
        assert sum(seen) >= min(room, before + after)
