"""Mistakes in settings and data are told before anything is computed, all at once, with lines."""

import json

import pytest

from pipeline.errors import ConfigError, ExportError, TaskError
from pipeline.finetuning.checks import check
from pipeline.finetuning.examination import examine
from pipeline.settings.finetuning import FinetuneSettings
from tests.pipeline.finetuning.conftest import settings, write_rows
from tests.pipeline.finetuning.in_process import finetune
from tests.reported import Lines


def test_settings_without_an_effect_are_refused(data):
    def told(task, given=data, **more):
        with pytest.raises(ConfigError) as raised:
            check(settings(task, given, **more))
        return str(raised.value)

    only_train = {"ner": {"train": data["ner"]["train"]}}
    assert "patience: needs" in told("ner", only_train, patience=1)
    assert "micro_batch=16 must be smaller" in told("ner", micro_batch=16)
    assert "has no effect on span" in told("span", label_weights="balanced")

    def with_stride(task):
        return {task: data[task] | {"stride": 21, "length": 48}}

    for task in ("pair", "similarity", "choice"):
        assert f"data.stride: has no effect on {task}" in told(task, with_stride(task))
    assert "finetune.data.stride=21 must be smaller" in told("ner", with_stride("ner"))
    shared = told("ner", workers=2, batch=15, micro_batch=8)
    assert "micro_batch=8 must be smaller than finetune.batch=15 / finetune.workers=2" in shared
    check(settings("ner", data, workers=2, batch=15, micro_batch=7))
    few = told("ner", workers=5, batch=16, search={"batch": [8, 4]})
    assert "workers=5: there are 4 examples in a batch to share" in few
    assert "finetune.gpus=0.5 is less" in told("ner", workers=2, gpus=0.5)
    halved = {"halving": True, "lr": [1e-3, 1e-4]}
    assert "search.halving has trials of one" in told("ner", workers=2, epochs=2, search=halved)
    assert "halving: needs several values" in told("ner", search={"halving": True})
    several_seeds = {"halving": True, "seeds": [1, 2]}
    assert "halving: needs several values" in told("ner", search=several_seeds)
    with pytest.raises(ValueError, match="twice"):
        settings("ner", data, search={"seeds": [1, 1]})


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": "t", "label": "t"}, "text and label have the same column, 't'; give each its"),
        ({"text": 1, "label": 1}, "text and label have the same column, 1; give each its own"),
        ({"label": -2, "text": -1}, "label has the column -2; columns are counted from 0"),
        ({"txt": 0}, "classification has no field txt"),
    ],
)
def test_columns_that_cannot_be_meant_are_refused(columns, message):
    chosen = settings("classification", {"classification": {"train": "a", "columns": columns}})
    with pytest.raises(ConfigError) as raised:
        check(chosen)
    assert f"finetune.data.columns: {message}" in str(raised.value)


def test_bad_lines_are_not_followed_by_what_they_cause(export, tmp_path):
    rows = [{"text": 12, "label": "a"}, {"text": "坏", "label": "b"}]
    path = write_rows(tmp_path / "a.jsonl", *rows)
    given = {"classification": {"train": path}}
    with pytest.raises(TaskError) as raised:
        finetune(settings("classification", given), str(export), tmp_path / "out", seed=1)
    first, *others = str(raised.value).splitlines()
    assert first.endswith("skip_bad=true leaves such lines out:")
    assert len(others) == 1
    chosen = settings("classification", given, skip_bad=True)
    with pytest.raises(TaskError, match="every label is b, so there is nothing to learn"):
        finetune(chosen, str(export), tmp_path / "out", seed=1)


def test_ids_that_a_submission_cannot_hold_are_told_before_the_training(export, data, tmp_path):
    rows = [{"text": "好"} | ({"id": key} if key else {}) for key in (5, None, 1)]
    files = data["classification"] | {"test": write_rows(tmp_path / "a.jsonl", *rows)}
    with pytest.raises(TaskError, match=r"a\.jsonl: examples 2 and 3.* would both have the id '1'"):
        finetune(
            settings("classification", {"classification": files}),
            str(export),
            tmp_path / "out",
            seed=1,
        )


def test_what_cannot_work_is_said_before_anything_is_computed(export, data, tmp_path):
    def attempt(error, message, chosen, source=export):
        with pytest.raises(error, match=message):
            finetune(chosen, str(source), tmp_path / "out", seed=1)
        assert not (tmp_path / "out").exists()

    attempt(ConfigError, r"(?s)finetune\.task: choose one.*data\.train", FinetuneSettings())
    no_dev = {"ner": {"train": data["ner"]["train"]}}
    attempt(ConfigError, "search: needs", settings("ner", no_dev, search={"lr": [1e-3, 1e-4]}))
    mixed = {"ner": data["ner"] | {"dev": data["pair"]["dev"]}}
    attempt(TaskError, r"pair-dev\.jsonl, line 1: no key 'tokens'", settings("ner", mixed))
    attempt(ExportError, "config.json is missing", settings("ner", data), tmp_path)
    one = tmp_path / "one.jsonl"
    one.write_text('{"text": "好", "label": 1}\n')
    alike = {"classification": {"train": str(one)}}
    attempt(TaskError, "every label is 1", settings("classification", alike))
    none = tmp_path / "none.jsonl"
    none.write_text('{"text": "好", "labels": []}\n', "utf-8")
    attempt(
        TaskError,
        "no example has a label",
        settings("multilabel", {"multilabel": {"train": str(none)}}),
    )


def test_the_examples_that_are_used_must_have_several_labels(export, tmp_path):
    rows = [{"text": "好", "label": int(place == 0)} for place in range(40)]
    path = write_rows(tmp_path / "a.jsonl", *rows)
    given = {"classification": {"train": path, "examples": 4}}
    with pytest.raises(TaskError, match=r"every label is 0, in the 4 of data\.examples, so"):
        finetune(settings("classification", given), str(export), tmp_path / "out", seed=1)


def test_the_weight_of_an_unknown_label_is_told_with_other_mistakes(export, data, tmp_path):
    missing = {"ner": data["ner"] | {"dev": str(tmp_path / "none")}}
    chosen = settings("ner", missing, label_weights={"PER": 2.0})
    with pytest.raises(TaskError, match=r"(?s)label_weights: label 'PER' .*none: no such file"):
        finetune(chosen, str(export), tmp_path / "out", seed=1)


def bad_files(folder):
    """Train, dev and test files with one mistake of each kind, and what a message says of each."""
    good = [{"text": "好", "label": 1}, {"text": "坏", "label": 0}]
    files = {
        "train": write_rows(folder / "train.jsonl", *good, {"text": "京", "label": 1.5}, "{"),
        "dev": write_rows(folder / "dev.jsonl", {"text": "好", "label": "x"}, *good),
        "test": write_rows(folder / "test.jsonl", *good, {"text": " ", "label": 1}, {"label": 1}),
    }
    told = [
        ("train.jsonl, line 3", "key label: expected str or int"),
        ("train.jsonl, line 4", "not JSON"),
        ("dev.jsonl, line 1", "label 'x' does not occur"),
        ("test.jsonl, line 3", "no visible character"),
        ("test.jsonl, line 4", "no key 'text'"),
    ]
    return files, told


def test_all_mistakes_in_the_data_are_one_message(export, tmp_path):
    files, told = bad_files(tmp_path)
    chosen = settings("classification", {"classification": files}, epochs=1)
    with pytest.raises(TaskError) as raised:
        finetune(chosen, str(export), tmp_path / "out", seed=1)
    first, *lines = str(raised.value).splitlines()
    assert first.startswith("head: 5 mistake(s) in the task data; skip_bad=true leaves such")
    for line, (place, reason) in zip(lines, told, strict=True):
        assert place in line
        assert reason in line
    assert not (tmp_path / "out").exists()


def test_bad_lines_are_left_out_where_that_is_asked_for(export, tmp_path):
    files, told = bad_files(tmp_path)
    chosen = settings("classification", {"classification": files}, epochs=1, skip_bad=True)
    lines = Lines()
    result = finetune(chosen, str(export), tmp_path / "out", seed=1, progress=lines)
    assert f"{len(told)} bad line(s) are left out, first: " in lines[0]
    assert "2 train, 2 dev, 2 test examples" in lines[3]
    assert result.score is not None
    saved = json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))
    assert [f"head: {note}" for note in saved["notes"]] == lines[:3]
    # What is left must still be something to learn from.
    (tmp_path / "train.jsonl").write_text('{"text": "好", "label": 1}\n')
    (tmp_path / "dev.jsonl").write_text("")
    (tmp_path / "test.jsonl").unlink()
    with pytest.raises(TaskError, match=r"(?s)every label is 1.*dev.*no examples.*no such file"):
        finetune(chosen, str(export), tmp_path / "other", seed=1)


def test_words_that_texts_are_not_cut_into_are_told(export, tmp_path):
    note = "1 of 6 words are not single characters or words of letters, as '书店'"
    for first, told in ("书店", [note]), ("书", []):
        row = {"tokens": [first, "play", "2019", "……", "☺️", "王"], "labels": [*"OOOOO", "B-PER"]}
        data = {"ner": {"train": write_rows(tmp_path / "train.jsonl", row)}}
        lines = Lines()
        chosen = settings("ner", data, epochs=1)
        finetune(chosen, str(export), tmp_path / "out", seed=1, progress=lines)
        found = [line for line in lines if "words are not" in line]
        assert [line.partition("jsonl: ")[2].partition(":")[0] for line in found] == told


def test_examples_that_are_learnt_and_judged_are_told(export, tmp_path):
    rows = [{"text": text, "label": label} for label, text in enumerate("好坏店")]
    train = write_rows(tmp_path / "train.jsonl", *rows)
    files = {
        "train": train,
        "dev": write_rows(tmp_path / "dev.jsonl", {"text": "书店", "label": 1}),
        "test": write_rows(tmp_path / "test.jsonl", rows[0] | {"label": 2}, *rows[1:], rows[2]),
    }
    chosen = settings("classification", {"classification": files})
    (note,) = examine(chosen, str(export)).notes
    assert note.startswith(f"{files['test']}: 4 of 4 examples stand in {train} too")


def test_a_long_list_of_mistakes_is_cut(export, tmp_path):
    path = write_rows(tmp_path / "a.jsonl", *["{}"] * 70)
    chosen = settings("classification", {"classification": {"train": path}})
    with pytest.raises(TaskError, match="… and 21 more") as raised:  # 70 lines, and no good one
        finetune(chosen, str(export), tmp_path / "out", seed=1)
    assert len(str(raised.value).splitlines()) == 52


@pytest.mark.parametrize(
    ("task", "target", "reason"),
    [
        ("ner", {"labels": ["O", "O"]}, "no example has an entity, so f1"),
        ("multilabel", {"labels": []}, "no example has a label, so f1"),
        ("regression", {"label": 2}, "every label is 2, so spearman"),
    ],
)
def test_a_dev_set_that_gives_every_answer_0_is_noted(task, target, reason, export, data, tmp_path):
    row = {"text": "书店", "tokens": ["书", "店"]} | target
    dev = write_rows(tmp_path / "dev.jsonl", row, row)
    chosen = settings(task, {task: {"train": data[task]["train"], "dev": dev}})
    found = examine(chosen, str(export)).notes
    assert found == [f"{dev}: {reason} is 0 whatever is answered, and the first epoch is kept"]
