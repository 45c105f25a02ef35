"""What is wrong in files of published forms is told with its place, its key and the right form."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import TaskError
from pipeline.finetuning.examples.task_file import DataMistakes
from pipeline.finetuning.tasks import TASKS
from tests.pipeline.finetuning.examples.reading import lines, read
from tests.pipeline.finetuning.examples.test_formats import C3, CLUENER, CMRC, ENTITY, WSC


@pytest.mark.parametrize(
    ("task", "name", "text", "message"),
    [
        (
            "classification",
            "a.csv",
            "text,label\n好,1\n坏\n",
            r"line 3: 1 columns, expected text, label",
        ),
        (
            "classification",
            "a.csv",
            'text,label\n"好\n好",1\n,1\n',
            r"line 4, key text: there is no",
        ),
        ("ner", "a.txt", "王 B-PER\n\n明 I-PER\n在\n", r"line 3: 2 words but 1 labels"),
        (
            "ner",
            "a.json",
            lines(CLUENER, CLUENER | {"label": {"x": {"桂": [[7, 8]]}}}),
            r"line 2: the entity from 7 to 9 does not lie",
        ),
        (
            "ner",
            "a.json",
            lines(CLUENER, CLUENER | {"label": {"x": {"桂": [[0, 0]]}}}),
            r"line 2: the entity '桂' does not stand from character 0 to 1, where the text reads",
        ),
        (
            "ner",
            "a.jsonl",
            lines(ENTITY, ENTITY | {"text": "好😀王明"}),
            r"line 2: the entity '王明' .* the text reads '😀王'; it stands at character 2",
        ),
        (
            "ner",
            "a.jsonl",
            lines(ENTITY, ENTITY | {"entities": [{"start": 0, "end": 2}]}),
            r"line 2: key entities: expected objects with start, end and type",
        ),
        (
            "ner",
            "a.jsonl",
            lines(ENTITY, ENTITY | {"entities": [{"start": 0, "end": 2, "type": None}]}),
            r"line 2: an entity from 0 to 2 of type None",
        ),
        (
            "choice",
            "a.json",
            json.dumps([*C3, [["甲"], [{"question": "乙"}], "1"]]),
            r"item 1: not of a known form: KeyError\('choice'\)",
        ),
        (
            "classification",
            "a.json",
            json.dumps([{"text": "好", "label": "1"}, "坏"], ensure_ascii=False),
            "item 1: expected an object or a list, found '坏'",
        ),
        (
            "choice",
            "a.jsonl",
            lines(
                {"context": "", "question": "", "choices": ["甲"], "answer": 0},
                {"context": "", "question": "", "choices": ["甲"], "answer": "乙"},
            ),
            "line 2: key answer: '乙' is none of the choices",
        ),
        (
            "span",
            "a.json",
            json.dumps([*CMRC, CMRC[0] | {"qas": [{"query_text": "哪", "answers": ["南京"]}]}]),
            "item 1, question 0, key answers: '南京' does not stand",
        ),
    ],
    ids=lambda value: value[:12],
)
def test_what_is_wrong_in_a_published_file_has_its_place(task, name, text, message, tmp_path):
    examples, findings = read(task, tmp_path / name, text)
    assert len(examples) == 1
    assert findings.problems == []
    with pytest.raises(AssertionError, match=message):
        raise AssertionError("\n".join(findings.bad_lines))


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_a_misspelt_target_is_not_replaced_by_another_column(name, tmp_path):
    row = {"text": "好", "label": "108", "label_desc": "news"}
    text = lines(row) if name == "a.jsonl" else f"{','.join(row)}\n{','.join(row.values())}\n"
    for misspelt in ("label_des", "text_"):
        field = misspelt.split("_")[0]
        given = {"columns": {field: misspelt}}
        (told,) = read("classification", tmp_path / name, text, **given)[1].bad_lines
        assert f"no '{misspelt}'; there is text, label, label_desc" in told
    given = {"columns": {"label": "label_desc"}}
    assert read("classification", tmp_path / name, **given)[0][0]["label"] == "news"
    # A test file without the target is predicted.
    hidden, findings = read(
        "classification", tmp_path / "b.jsonl", lines({"text": "好"}), target_needed=False, **given
    )
    assert (hidden, findings) == ([{"text": "好"}], DataMistakes.none())


def test_signs_between_labels_in_a_cell_are_told(tmp_path):
    text = 'text\tlabels\n好\t甲 乙\n好\t甲,乙\n好\t["甲,乙"]\n好\t甲、乙\n好\t甲|乙\n'
    examples, findings = read("multilabel", tmp_path / "a.tsv", text)
    assert [each["labels"] for each in examples] == [["乙", "甲"], ["甲,乙"]]
    assert len(findings.bad_lines) == 3
    assert "line 3: key labels: '甲,乙' has other signs" in findings.bad_lines[0]
    assert findings.bad_lines[0].endswith('write ["甲,乙"]')
    findings = read("multilabel", tmp_path / "b.csv", "text,label\n好,甲#乙\n")[1]  # doccano's
    assert "line 2: key labels: '甲#乙' has other signs" in findings.bad_lines[0]


def test_annotations_of_brat_are_told(tmp_path):
    findings = read("ner", tmp_path / "a.ann", "T1\tPER 0 2\t王明\n")[1]
    assert "a.ann: annotations of BRAT" in findings.problems[0]


def test_a_column_for_each_label_is_told(tmp_path):
    rows = "id,text,甲,乙\n1,好,0,1\n"
    (told,) = read("multilabel", tmp_path / "a.csv", rows)[1].bad_lines
    assert "line 2: no key 'labels'; 甲, 乙 are 0 or 1" in told
    assert told.endswith("with spaces between them, as 甲 乙")
    (told,) = read("multilabel", tmp_path / "a.csv", f"{rows}2,坏,1,1\n")[1].problems
    assert told.endswith("with spaces between them, as 甲 乙")
    (told,) = read("multilabel", tmp_path / "a.csv", "id,text,类\n1,好,甲\n2,坏,乙\n")[1].problems
    assert told.endswith("as {labels: 类}")


CHOICES = 'context,question,choices,answer\n一,二,"{}",0\n'
ANSWERS = 'context,question,answers\n在北京,哪,"{}"\n'


def question(answers):
    return lines({"context": "在北京", "question": "哪", "answers": answers})


@pytest.mark.parametrize(
    ("task", "name", "text", "message"),
    [
        *(
            ("choice", "a.csv", CHOICES.format(cell), "key choices: expected a list in JSON, as [")
            for cell in ("去 北京|去 上海", "甲|乙", "甲,乙", "甲；乙", "['甲', '乙']", "甲 乙")
        ),
        (
            "choice",
            "a.jsonl",
            lines({"context": "", "question": "", "choices": {"text": ["甲"]}, "answer": "A"}),
            "key choices: expected list",
        ),
        (
            "multilabel",
            "a.csv",
            "text,labels\n好,\"['甲', '乙']\"\n",
            "key labels: expected a list in JSON, as [",
        ),
        ("ner", "a.tsv", "tokens\tlabels\n王\t['O']\n", "key labels: expected a list in JSON"),
        ("span", "a.csv", ANSWERS.format("{'text': ['北京']}"), "key answers: expected a list in"),
        ("span", "a.jsonl", question(5), "key answers: expected list, found 5"),
        (
            "span",
            "a.jsonl",
            question({"text": ["北京", "京"], "answer_start": [1]}),
            "key answers: expected lists of one length",
        ),
        (
            "span",
            "a.jsonl",
            question({"text": ["北京"], "answer_start": 1}),
            "key answers: expected lists of one length",
        ),
        *(
            (
                "ner",
                "a.jsonl",
                lines({"text": "王小明", "label": label}),
                "key label: expected {type: {text: [[first, last], …]}}, found",
            )
            for label in ({"P": {"王小明": [0, 2]}}, {"P": ["王小明"]}, {"P": {"王": [["0", "0"]]}})
        ),
        (
            "ner",
            "a.jsonl",
            lines({"text": "王小明", "label": [[0, 3]]}),
            "key label: expected objects with start, end and type, or lists [start, end, type]",
        ),
        (
            "classification",
            "a.json",
            lines(WSC | {"target": {"span1_index": 0}}),
            "key target: expected span1_index, span1_text, span2_index, span2_text of a text",
        ),
        ("pair", "a.json", lines({"abst": "甲", "keyword": [1]}), "key keyword: expected words"),
    ],
)
def test_another_form_is_told_with_its_key_and_the_expected_one(
    task, name, text, message, tmp_path
):
    examples, findings = read(task, tmp_path / name, text)
    assert examples == []
    (told,) = findings.bad_lines
    assert message in told


def test_keys_that_the_file_does_not_have_are_not_listed(tmp_path):
    text = lines({"text": "王明", "label": [1, 2]})
    (told,) = read("ner", tmp_path / "a.jsonl", text)[1].bad_lines
    assert told.endswith("no key 'labels' (ner needs it: list); there is text, label")


KEYS = ["text", "start", "answer_start", "end", "type", "span1_index", "span1_text", "北京"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.floats() | st.text("北京[{-0 ", max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner),
    max_leaves=6,
)


@pytest.mark.parametrize("task", TASKS)
@given(data=st.data())
def test_whatever_a_record_holds_is_an_example_or_one_error(task, data):
    kind = TASKS[task]
    aliases = {each for names in kind.aliases.values() for each in names}
    keys = [*kind.fields, kind.target, *aliases, "text", "entities", "keyword", "abst"]
    record = data.draw(st.dictionaries(st.sampled_from(keys), VALUES))
    with contextlib.suppress(TaskError):
        example = kind.check_fields(kind.example(record, "here"), "here")
        kind.check_target(example, "here")


def test_a_document_of_another_form_is_refused(tmp_path):
    for text, message in (("{\n", "neither JSON nor"), ('{"data": 1}', "expected a list")):
        assert message in read("span", tmp_path / "a.json", text)[1].problems[0]
