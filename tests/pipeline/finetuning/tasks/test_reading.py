"""Task data: what is read, and what is refused with which words."""

import bz2
import gzip
import itertools
import json

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import TaskError
from pipeline.finetuning.finetune import spread
from pipeline.finetuning.tasks import TASKS

GOOD = {
    "classification": {"text": "好", "label": 1},
    "pair": {"sentence1": "好", "sentence2": "坏", "label": "neutral", "genre": "lit"},
    "ner": {"tokens": ["北", "京"], "labels": ["B-LOC", "I-LOC"]},
    "choice": {"context": "甲", "question": "乙", "choices": ["丙", "丁"], "answer": 1},
    "span": {"context": "在北京", "question": "哪", "answers": [{"text": "北京", "start": 1}]},
}


def write(path, *rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return str(path)


@pytest.mark.parametrize("task", GOOD)
def test_compressed_or_not_is_the_same(task, tmp_path):
    plain = write(tmp_path / "a.jsonl", GOOD[task], GOOD[task])
    text = (tmp_path / "a.jsonl").read_bytes()
    compressors = {"gz": gzip.compress, "bz2": bz2.compress, "zst": zstandard.compress}
    expected = TASKS[task].read(plain)
    assert len(expected) == 2
    for suffix, compress in compressors.items():
        (tmp_path / f"a.jsonl.{suffix}").write_bytes(compress(text))
        assert TASKS[task].read(str(tmp_path / f"a.jsonl.{suffix}")) == expected


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("classification", {"text": 3}, "key text: expected str, found 3"),
        ("classification", {"label": None}, "key label: expected str or int"),
        ("classification", {"label": True}, "key label: expected str or int"),
        ("pair", {"sentence2": ...}, "no key 'sentence2'.*there is sentence1, label, genre"),
        ("ner", {"labels": ["O"]}, "2 tokens but 1 labels"),
        ("ner", {"labels": ["O", "LOC"]}, "'LOC' is not O, B-TYPE or I-TYPE"),
        ("ner", {"tokens": ["北", ""]}, "key tokens: expected a list of strings"),
        ("choice", {"answer": 2}, "key answer: 2 is not the index of a choice"),
        ("choice", {"choices": []}, "key choices: expected a list of strings"),
        ("span", {"answers": []}, "key answers: expected at least one"),
        ("span", {"answers": [{"text": "北京", "start": 0}]}, "'北京' does not stand at char.* 0"),
        ("span", {"answers": [{"text": "北京"}]}, "no key 'start'"),
    ],
)
def test_a_malformed_example_is_named_by_file_line_and_key(task, change, message, tmp_path):
    bad = {key: value for key, value in (GOOD[task] | change).items() if value is not ...}
    path = write(tmp_path / "train.jsonl", GOOD[task], bad)
    with pytest.raises(TaskError, match=f"train.jsonl, line 2.*{message}"):
        TASKS[task].read(path)


def test_what_is_no_jsonl_is_refused(tmp_path):
    path = tmp_path / "train.jsonl"
    with pytest.raises(TaskError, match="no such file"):
        TASKS["ner"].read(str(path))
    path.write_text("\n \n")
    with pytest.raises(TaskError, match="no examples; expected JSON lines with tokens, labels"):
        TASKS["ner"].read(str(path))
    path.write_text("\n{'text': 1}\n")
    with pytest.raises(TaskError, match=r"line 2: not JSON"):
        TASKS["ner"].read(str(path))
    path.write_text("[1]\n")
    with pytest.raises(TaskError, match=r"line 1: expected a JSON object, found"):
        TASKS["ner"].read(str(path))
    path.write_bytes("{}".encode("utf-16"))
    with pytest.raises(TaskError, match="UTF-8"):
        TASKS["ner"].read(str(path))
    path.with_suffix(".gz").write_bytes(b"no gzip")
    with pytest.raises(TaskError, match=r"train\.gz"):
        TASKS["ner"].read(str(path.with_suffix(".gz")))


def test_labels_come_from_training_and_others_are_refused(tmp_path):
    path = write(tmp_path / "dev.jsonl", GOOD["classification"])
    with pytest.raises(TaskError, match=r"dev.jsonl, line 1: label '1' does not occur.*\(0, 2\)"):
        TASKS["classification"].read(path, ["0", "2"])
    assert TASKS["classification"].read(path, ["1"]) == [{"text": "好", "label": "1"}]


def test_label_sets():
    rows = [{"labels": ["B-PER", "O"]}, {"labels": ["I-LOC"]}]
    assert TASKS["ner"].label_set(rows) == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    assert TASKS["pair"].label_set([{"label": "b"}, {"label": "a"}, {"label": "b"}]) == ["a", "b"]
    assert TASKS["span"].label_set([GOOD["span"]]) == []


@given(st.integers(0, 300), st.integers(0, 400))
def test_spread_takes_as_many_as_asked_for_in_order(n, limit):
    chosen = spread(list(range(n)), limit)
    assert len(chosen) == (min(n, limit) or n if limit else n)
    assert chosen == sorted(set(chosen))
    if limit and len(chosen) > 1:
        gaps = {b - a for a, b in itertools.pairwise(chosen)}
        assert max(gaps) - min(gaps) <= 1


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
    train = TASKS[task].read(str(shared / "tasks" / folder / "train.jsonl.gz"))
    names = TASKS[task].label_set(train)
    assert len(names) == labels
    assert len(TASKS[task].read(str(shared / "tasks" / folder / "dev.jsonl.gz"), names)) == rows
