"""Task data: what is read, and what is refused with which words."""

import bz2
import gzip
import json
import re
from collections import Counter

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from pipeline.finetuning.examples.data import choose_evenly
from pipeline.finetuning.examples.task_file import DataMistakes
from pipeline.finetuning.tasks import TASKS
from tests.pipeline.finetuning.conftest import write_rows
from tests.pipeline.finetuning.examples.reading import lines, read


def one_problem(task, path):
    examples, findings = read(task, path)
    assert examples == []
    assert findings.notes == []
    return "\n".join(findings.problems + findings.bad_lines)


GOOD = {
    "classification": {"text": "好", "label": 1},
    "multilabel": {"text": "好", "labels": ["人", 1]},
    "regression": {"text": "好", "label": 0.5},
    "similarity": {"sentence1": "好", "sentence2": "坏", "label": 3},
    "pair": {"sentence1": "好", "sentence2": "坏", "label": "neutral", "genre": "lit"},
    "ner": {"tokens": ["北", "京"], "labels": ["B-LOC", "I-LOC"]},
    "choice": {"context": "甲", "question": "乙", "choices": ["丙", "丁"], "answer": 1},
    "span": {"context": "在北京", "question": "哪", "answers": [{"text": "北京", "start": 1}]},
}


def test_a_message_names_a_few_of_many_labels(tmp_path):
    """Texts in place of labels made a message of many megabytes."""
    known = [f"{number:03}{'很' * 500}" for number in range(200)]
    rows = lines({"text": "好", "label": "坏" * 500})
    (told,) = read("classification", tmp_path / "a.jsonl", rows, labels=known)[1].bad_lines
    assert "line 1: label '坏" in told
    assert told.endswith(", and 180 more)")
    assert len(told) < 1500


@pytest.mark.parametrize("task", GOOD)
def test_compressed_or_not_is_the_same(task, tmp_path):
    plain = write_rows(tmp_path / "a.jsonl", GOOD[task], GOOD[task])
    text = (tmp_path / "a.jsonl").read_bytes()
    compressors = {"gz": gzip.compress, "bz2": bz2.compress, "zst": zstandard.compress}
    expected, findings = read(task, plain)
    assert findings == DataMistakes.none()
    assert len(expected) == 2
    for suffix, compress in compressors.items():
        (tmp_path / f"a.jsonl.{suffix}").write_bytes(compress(text))
        assert read(task, tmp_path / f"a.jsonl.{suffix}")[0] == expected


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("classification", {"text": 3}, "key text: expected str, found 3"),
        ("classification", {"label": None}, "key label: expected str or int"),
        ("classification", {"label": 1.5}, "key label: expected str or int, found 1.5"),
        ("multilabel", {"labels": [1.5]}, "key labels: expected a list of the names"),
        ("regression", {"label": True}, "key label: expected a number, found True"),
        ("similarity", {"label": False}, "key label: expected a number, found False"),
        ("choice", {"answer": True}, "key answer: expected int or str, found True"),
        ("multilabel", {"labels": [None]}, "key labels: expected a list of the names"),
        ("multilabel", {"labels": [0, 1, 1]}, "key labels: '1' stands twice; expected .* names"),
        ("multilabel", {"labels": ["a ", "a"]}, "key labels: 'a' stands twice"),
        ("multilabel", {"labels": [False, True]}, r"list of the names .*found \[False, True\]"),
        ("regression", {"label": "hot"}, "key label: expected a number, found 'hot'"),
        ("similarity", {"label": None}, "key label: expected a number"),
        ("pair", {"sentence2": ...}, "no key 'sentence2'.*there is sentence1, label, genre"),
        ("ner", {"labels": ["O"]}, "2 tokens but 1 labels"),
        ("ner", {"labels": ["O", "LOC"]}, "'LOC' is not O, B-TYPE or I-TYPE"),
        ("ner", {"tokens": ["北", ""]}, "key tokens: expected a list of strings"),
        ("choice", {"answer": 2}, "key answer: 2 is not the index of a choice"),
        ("choice", {"choices": []}, "key choices: expected a list of strings"),
        ("span", {"answers": [], "is_impossible": False}, "key answers: expected at least one"),
        ("span", {"answers": [{"text": "北京", "start": 0}]}, "'北京' does not stand at char.* 0"),
        ("span", {"answers": [{"text": "北京"}]}, "no key 'start'"),
    ],
)
def test_a_malformed_example_is_named_by_file_line_and_key(task, change, message, tmp_path):
    bad = {key: value for key, value in (GOOD[task] | change).items() if value is not ...}
    path = write_rows(tmp_path / "train.jsonl", GOOD[task], bad)
    examples, findings = read(task, path)
    assert len(examples) == 1
    (told,) = findings.bad_lines
    assert re.search(f"train.jsonl, line 2.*{message}", told)


def test_true_and_false_are_labels(tmp_path):
    rows = [GOOD["pair"] | {"label": value} for value in (True, False, "true")]
    examples, findings = read("pair", write_rows(tmp_path / "train.jsonl", *rows))
    assert findings == DataMistakes.none()
    assert [each["label"] for each in examples] == ["true", "false", "true"]


def test_a_label_in_a_list_is_that_label(tmp_path):
    rows = [{"text": "好", "label": each} for each in (["甲"], [2], ["甲", "乙"])]
    examples, findings = read("classification", tmp_path / "a.jsonl", lines(*rows))
    assert [each["label"] for each in examples] == ["甲", "2"]
    assert "finetune.task=multilabel learns them" in findings.bad_lines[0]


def test_texts_in_the_place_of_labels_are_told(tmp_path):
    rows = [{"text": "体育", "label": f"消息{i}"} for i in range(30)]
    findings = read("classification", tmp_path / "a.jsonl", lines(*rows))[1]
    assert "30 examples have 30 labels, such as '消息0'" in findings.notes[0]
    findings = read("classification", tmp_path / "b.jsonl", lines(*rows[:20], *rows[:20]))[1]
    assert findings == DataMistakes.none()


def test_what_is_no_jsonl_is_refused(tmp_path):
    path = tmp_path / "train.jsonl"
    assert "no such file" in one_problem("ner", path)
    path.write_text("\n \n")
    expected = "no examples; expected tokens, labels"
    assert expected in one_problem("ner", path)
    path.write_text("")
    assert expected in one_problem("ner", path)
    path.write_text("\n{'text': 1}\n")
    assert "line 2: not JSON" in one_problem("ner", path)
    path.write_text("[1]\n")
    assert "line 1: expected a JSON object, found" in one_problem("ner", path)
    path.with_suffix(".gz").write_bytes(b"no gzip")
    assert "train.gz" in one_problem("ner", path.with_suffix(".gz"))


def test_labels_come_from_training_and_others_are_refused(tmp_path):
    path = write_rows(tmp_path / "dev.jsonl", GOOD["classification"])
    _, findings = read("classification", path, labels=["0", "2"])
    assert "dev.jsonl, line 1: label '1' does not occur" in findings.bad_lines[0]
    assert "(0, 2)" in findings.bad_lines[0]
    assert read("classification", path, labels=["1"])[0] == [{"text": "好", "label": "1"}]


def test_a_byte_order_mark_is_not_text(tmp_path):
    row = json.dumps(GOOD["classification"], ensure_ascii=False)
    path = tmp_path / "a.jsonl"
    path.write_text(f"\ufeff{row}\r\n\ufeff\ufeff{row}\r\n", "utf-8")
    assert read("classification", path) == (
        [{"text": "好", "label": "1"}] * 2,
        DataMistakes.none(),
    )


@pytest.mark.parametrize("blank", ["", "  ", "\u3000\t", "\u200b\ufeff", "\x00", "\u00a0\ufe0f"])
def test_text_without_a_visible_character_is_named(blank, tmp_path):
    fields = {
        "classification": "text",
        "pair": "sentence2",
        "span": "question",
        "ner": "text",
    }
    for task, key in fields.items():
        bad = GOOD[task] | {key: blank}
        if task == "ner":
            bad = {"text": blank, "labels": ["O"] * len(blank)}
        _, findings = read(task, write_rows(tmp_path / "a.jsonl", GOOD[task], bad))
        assert "line 2, key" in findings.bad_lines[0]
        assert "no visible character" in findings.bad_lines[0]
    assert read("choice", write_rows(tmp_path / "b.jsonl", GOOD["choice"] | {"context": blank}))[0]


def test_half_a_character_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "\\ud83d", "label": 1}\n')
    assert "line 1, key text: half of a surrogate pair" in one_problem(
        "classification", tmp_path / "a.jsonl"
    )


def test_examples_with_one_id_are_used_and_told(tmp_path):
    """It may be that of a customer, or of another source."""
    rows = [GOOD["classification"] | {"id": name} for name in ("a", "b", "a", 1, "1", "b")]
    path = write_rows(tmp_path / "a.jsonl", *rows)
    examples, findings = read("classification", path)
    assert len(examples) == 6
    assert not findings.bad_lines
    count = "2 of 6 examples have the id of one before them"
    assert findings.notes == [f"{path}: {count}, first: {path}, line 3 that of {path}, line 1"]
    # In C3 it names a context, which may have several questions.
    rows = [GOOD["choice"] | {"id": 1, "question": text} for text in ("甲", "乙", "甲")]
    examples, findings = read("choice", write_rows(tmp_path / "b.jsonl", *rows))
    assert len(examples) == 3
    assert "1 of 3 examples have the id" in findings.notes[0]


def test_targets_may_be_absent_from_a_whole_file_alone(tmp_path):
    without = {"text": "好"}
    path = write_rows(tmp_path / "a.jsonl", without, without)
    assert read("classification", path, target_needed=False)[0] == [without] * 2
    assert "no example has the key 'label'" in read("classification", path)[1].problems[0]
    path = write_rows(tmp_path / "b.jsonl", without, GOOD["classification"])
    assert "line 1: no key 'label'" in read("classification", path, target_needed=False)[1][1][0]


@pytest.mark.parametrize("space", [" ", "\u3000", "\u200b", "\t\n", "\u00a0\ufeff"])
def test_invisible_characters_at_the_ends_of_an_answer_are_left_out(space, tmp_path):
    answer = {"text": f"{space}北京{space}", "start": 1}
    row = {"context": f"在{space}北京{space}。", "question": "哪？", "answers": [answer]}
    (example,), findings = read("span", write_rows(tmp_path / "a.jsonl", row))
    assert findings == DataMistakes.none()
    assert example["answers"] == [{"text": "北京", "start": 1 + len(space)}]


def test_where_an_answer_stands_is_told(tmp_path):
    row = GOOD["span"] | {"answers": [{"text": "北京", "start": -1}]}
    told = one_problem("span", write_rows(tmp_path / "a.jsonl", row))
    assert "does not stand at character -1" in told
    assert "it stands at character 1" in told
    row = GOOD["span"] | {"answers": ["上海"]}  # without a place, of which nothing can be said
    told = one_problem("span", write_rows(tmp_path / "a.jsonl", row))
    assert told.endswith("key answers: '上海' does not stand in the context")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        # (choices, answer) of each example of a file
        ([("丙丁", "丙"), ("丙丁", "丁")], [0, 1]),
        ([("丙丁", "0"), ("丙丁", "1")], [0, 1]),
        ([("丙丁", "0"), ("丙丁", 1)], [0, 1]),
        ([("120", "0"), ("丙丁", "1")], [0, 1]),
        ([("120", "0"), ("45", "5")], [2, 1]),
        ([("01", "0"), ("012", "2")], [0, 2]),
        ([("丙丁", "A"), ("丙丁", "B")], [0, 1]),
        ([("BA", "A"), ("BA", "B")], [1, 0]),
        ([("BA", "A"), ("丙丁", "B")], [0, 1]),
        ([("丙丁", "A"), ("丙丁", 1)], [0, 1]),
        ([("丙丁", "A"), ("丙丁", "1")], "some only"),
        ([("120", "0"), ("210", "2")], "either"),
        ([("丙丁", "丙"), ("丙丁", "1")], "some only"),
    ],
)
def test_answers_of_a_file_are_all_texts_all_indices_or_all_letters(rows, expected, tmp_path):
    given = [
        GOOD["choice"] | {"choices": list(choices), "answer": answer} for choices, answer in rows
    ]
    examples, findings = read("choice", write_rows(tmp_path / "a.jsonl", *given))
    if isinstance(expected, list):
        assert findings == DataMistakes.none()
        assert [each["answer"] for each in examples] == expected
    else:
        assert examples == []
        assert expected in findings.problems[0]


@pytest.mark.parametrize("letters", ["AB", "12"])
def test_choices_may_stand_under_their_letters(letters, tmp_path):
    options = dict(zip(reversed(letters), ["去上海", "去北京"], strict=True))
    row = {"passage": "他去了北京。", "question": "？", "options": options, "answer": letters[0]}
    examples, findings = read("choice", write_rows(tmp_path / "a.jsonl", row))
    if letters == "AB":
        assert (examples[0]["choices"], examples[0]["answer"]) == (["去北京", "去上海"], 0)
    else:  # which may be counted from 0 or from 1
        assert "key choices: expected list" in findings.bad_lines[0]


@pytest.mark.parametrize(
    ("task", "key", "given", "taken"),
    [
        ("classification", "label", 1.0, "1"),
        ("pair", "label", -1.0, "-1"),
        ("multilabel", "labels", [2.0, "a"], ["2", "a"]),
        ("choice", "answer", 1.0, 1),
    ],
)
def test_a_number_that_is_whole_is_one_whatever_its_type(task, key, given, taken, tmp_path):
    """pandas writes 1.0 where another row has no label."""
    (example,), findings = read(task, write_rows(tmp_path / "a.jsonl", GOOD[task] | {key: given}))
    assert (example[key], findings) == (taken, DataMistakes.none())


def test_what_teaches_nothing():
    choices = [{"choices": ["甲"]}, {"choices": ["甲", "乙"]}]
    assert TASKS["choice"].nothing_to_learn(choices[:1] * 3) == "no example has two choices"
    assert TASKS["choice"].nothing_to_learn(choices) == ""
    for task in ("regression", "similarity"):
        numbers = [{"label": 1.0}, {"label": 1.0}, {"label": 1.5}]
        assert TASKS[task].nothing_to_learn(numbers[:2]) == "every label is 1"
        assert TASKS[task].nothing_to_learn(numbers) == ""


def test_two_labels_as_0_and_1_are_no_names():
    rows = [{"labels": ["0", "1"]}] * 2
    assert "expected the names" in TASKS["multilabel"].nothing_to_learn(rows)
    assert TASKS["multilabel"].nothing_to_learn([*rows, {"labels": ["1"]}]) == ""


def test_one_label_that_some_examples_have_can_be_learnt():
    task = TASKS["multilabel"]
    assert task.nothing_to_learn([{"labels": ["a"]}, {"labels": []}]) == ""
    assert task.nothing_to_learn([{"labels": ["a"]}] * 2) == "every label is a"
    assert task.nothing_to_learn([{"labels": []}] * 2) == "no example has a label"


def test_label_sets():
    rows = [{"labels": ["B-PER", "O"]}, {"labels": ["I-LOC"]}]
    assert TASKS["ner"].label_set(rows) == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    assert TASKS["pair"].label_set([{"label": "b"}, {"label": "a"}, {"label": "b"}]) == ["a", "b"]
    numbers = [{"label": str(number)} for number in (11, 2, 0, 10, -1)]
    assert TASKS["pair"].label_set(numbers) == ["-1", "0", "2", "10", "11"]
    assert TASKS["span"].label_set([GOOD["span"]]) == []


@given(st.integers(0, 300), st.integers(0, 400))
def test_spread_takes_as_many_as_asked_for_in_order(n, limit):
    chosen = choose_evenly(list(range(n)), limit)
    assert len(chosen) == (min(n, limit) or n if limit else n)
    assert chosen == sorted(set(chosen))
    if 0 < limit < n:
        for place, each in enumerate(chosen):
            assert place * n // limit <= each < (place + 1) * n // limit
    assert chosen == choose_evenly(list(range(n)), limit)


@pytest.mark.parametrize("period", [2, 3, 4, 5])
def test_labels_that_repeat_with_a_period_are_all_drawn(period):
    labels = [place % period for place in range(1200)]
    drawn = Counter(choose_evenly(labels, 1200 // period))
    fair = 1200 / period / period
    assert {0.7 < drawn[label] / fair < 1.3 for label in range(period)} == {True}


@pytest.mark.parametrize(
    ("folder", "task", "rows", "labels"),
    [
        ("chnsenticorp", "classification", 1200, 2),
        ("lcqmc", "pair", 802, 2),
        ("afqmc", "pair", 2158, 2),
        ("ocnli", "pair", 1482, 3),
        ("peoples_daily_ner", "ner", 2315, 7),
        ("cmrc2018", "span", 470, 0),
        ("c3", "choice", 3816, 0),
    ],
)
def test_the_public_sets_are_read(shared, folder, task, rows, labels):
    train, findings = read(task, shared / "tasks" / folder / "train.jsonl.gz")
    names = TASKS[task].label_set(train)
    assert len(names) == labels
    dev, of_dev = read(task, shared / "tasks" / folder / "dev.jsonl.gz", labels=names)
    assert len(dev) == rows
    for found in (findings, of_dev):
        assert found.problems == found.bad_lines == []
        assert bool(found.notes) == (task == "ner")  # a few lines begin entities with I-


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv"])
@pytest.mark.parametrize("encoding", ["utf-8", "gb18030"])
def test_a_line_with_bytes_that_are_no_text_is_one_bad_line(tmp_path, name, encoding):
    rows = [
        ("很好的房间，服务也很周到。", "1"),
        ("房间?很小", "0"),
        ("早餐不好吃，不会再来了。", "0"),
    ]
    if "json" in name:
        text = "".join(f'{{"text": "{text}", "label": "{label}"}}\n' for text, label in rows)
    else:
        mark = "," if name.endswith("csv") else "\t"
        text = "".join(f"{text.replace(',', '')}{mark}{label}\n" for text, label in rows)
        text = f"text{mark}label\n{text}"
    path = tmp_path / name
    path.write_bytes(text.encode(encoding).replace(b"?", b"\xff"))
    examples, findings = read("classification", path)
    assert [(each["text"], each["label"]) for each in examples] == [rows[0], rows[2]]
    (bad,) = findings.bad_lines
    line = 2 if "json" in name else 3
    assert bad.startswith(f"{path}, line {line}, key text: bytes that are no text; expected UTF-8")
    assert not findings.problems


@pytest.mark.parametrize("name", ["a.csv", "a.xlsx", "a.jsonl", "a.txt"])
def test_files_of_office_programs_are_named(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"PK\x03\x04\x14\x00\x06\x00" + bytes(range(256)) * 99)
    for task in ("classification", "ner", "span"):
        said = f"{path}: is an archive or a document of an office program; unpack it, or save it"
        assert one_problem(task, path).startswith(said)


def test_entities_cannot_be_learnt_from_words_without_sentences():
    words = [{"tokens": ["张"], "labels": ["B-PER"]}, {"tokens": ["明"], "labels": ["I-PER"]}]
    assert "every example is a single word" in TASKS["ner"].nothing_to_learn(words)
    assert TASKS["ner"].nothing_to_learn(words[:1]) == ""
    sentence = {"tokens": ["在", "京"], "labels": ["O", "B-LOC"]}
    assert TASKS["ner"].nothing_to_learn([*words, sentence]) == ""
