"""Predictions: JSON or text in, answers out."""

import gzip
import json
import os
import shutil
import time
from pathlib import Path

import pyarrow as pa
import pytest
import ray
import torch
from pyarrow import parquet
from safetensors.torch import load_file, save_file

from pipeline.cluster.calls import ANY
from pipeline.errors import ConfigError, ExportError, TaskError
from pipeline.export.lineage import LINEAGE, left_steps, packages
from pipeline.finetuning.examples.input_lines import read_input
from pipeline.finetuning.examples.lines import read_lines
from pipeline.finetuning.examples.task_file import DataMistakes, read_task_file
from pipeline.finetuning.prediction import predict as prediction
from pipeline.finetuning.prediction import predict_on_cluster as on_cluster
from pipeline.finetuning.prediction.head_folder import RESULTS
from pipeline.finetuning.prediction.predict import Head, parse, predict
from pipeline.finetuning.prediction.predict_on_cluster import predict_on_cluster
from pipeline.finetuning.tasks import TASKS
from pipeline.settings.finetuning import FinetuneSettings
from pipeline.settings.training import ScalingSettings
from tests.pipeline.finetuning.in_process import finetune
from tests.reported import Lines


@pytest.fixture(scope="module")
def head(export, data, tmp_path_factory):
    """A fine-tuned folder for a task."""

    def make(task):
        folder = tmp_path_factory.mktemp("heads") / task
        values = {"task": task, "epochs": 4, "lr": 5e-3, "batch": 16, "dropout": 0.0}
        values["precision"] = "fp32"
        chosen = FinetuneSettings.model_validate(values | {"data": data[task] | {"length": 48}})
        return finetune(chosen, str(export), folder, seed=1)

    return make


@pytest.mark.parametrize("task", TASKS)
def test_predictions_score_what_fine_tuning_reported(task, head, data, monkeypatch):
    """The saved folder, read again in small blocks, answers as the network that was scored."""
    monkeypatch.setattr(prediction, "LINES", 7)
    result = head(task)
    found = list(predict(result.folder, read_lines(data[task]["test"])))
    truth = read_task_file(TASKS[task], data[task]["test"], DataMistakes.none())
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
        check_one_output_for_each_line(result.folder)


def check_one_output_for_each_line(folder):
    lines = ["王明", "", " \u3000", '{"text": ""}', '{"tokens": ["\u200b"]}', "在京"]
    found = list(predict(folder, [(str(i), line) for i, line in enumerate(lines)]))
    assert [row.get("text") for row in found] == ["王明", "", " \u3000", "", None, "在京"]
    assert [row["prediction"] is None for row in found] == [False, True, True, True, True, False]
    only_blank = list(predict(folder, [("1", ""), ("2", " ")]))
    assert [row["prediction"] for row in only_blank] == [None, None]


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_head_answers_in_the_precision_that_it_was_trained_in(task, head):
    """Numbers are the exception: bf16 has three digits."""
    folder = Path(head(task).folder)
    loaded = Head.load(str(folder))
    line = "书店很好"
    with torch.no_grad():
        ids = torch.tensor([loaded.setup.tokenizer(line)["input_ids"]])
        logits = loaded.network.eval()(ids).logits[0]
    expected = float(logits if task == "regression" else logits.softmax(0)[0])

    def answer():
        (found,) = predict(str(folder), [("x", line)])
        given = found["prediction"]
        return given["score"] if task == "regression" else given["probabilities"]["0"]

    assert answer() == pytest.approx(expected, abs=1e-6)
    results = json.loads((folder / RESULTS).read_text("utf-8"))
    (folder / RESULTS).write_text(json.dumps(results | {"precision": "bf16"}), "utf-8")
    assert answer() == pytest.approx(expected, rel=0.05)
    assert (answer() == pytest.approx(expected, abs=1e-6)) == (task == "regression")


def test_lines_are_read_whatever_the_name_says_of_their_compression(tmp_path):
    for name, data in (
        ("a.txt.gz", "甲\n乙".encode()),
        ("b.txt", gzip.compress("甲\n乙".encode())),
    ):
        (tmp_path / name).write_bytes(data)
        assert [one for _, one in read_lines(str(tmp_path / name))] == ["甲", "乙"]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.txt.gz"])
def test_a_byte_order_mark_is_not_text(name, tmp_path):
    line = '{"text": "王明"}' if "jsonl" in name else "王明"
    compress = gzip.compress if name.endswith("gz") else bytes
    text = f"\ufeff{line}\r\n\r\n\ufeff{line}"
    (tmp_path / name).write_bytes(compress(text.encode()))
    lines = list(read_lines(str(tmp_path / name)))
    assert [one for _, one in lines] == [line, "", line]
    assert [place.rpartition(" ")[2] for place, _ in lines] == ["1", "2", "3"]


def test_a_line_ends_where_a_line_feed_is(tmp_path):
    (tmp_path / "a.txt").write_text("王\u2028明\x85京\r沪\n港", "utf-8", newline="")
    assert [one for _, one in read_lines(str(tmp_path / "a.txt"))] == ["王\u2028明\x85京\r沪", "港"]


def test_plain_text_lines():
    assert parse(TASKS["ner"], " \u200b", "x") == {}
    assert parse(TASKS["classification"], "很好", "x") == {"text": "很好"}
    assert parse(TASKS["pair"], "很\t好", "x") == {"sentence1": "很", "sentence2": "好"}
    assert parse(TASKS["ner"], "京 ", "x") == {"text": "京 ", "tokens": ["京", " "]}
    with pytest.raises(TaskError, match="x: expected two texts with one tab"):
        parse(TASKS["pair"], "很好", "x")
    with pytest.raises(TaskError, match="x: expected JSON with context, question, choices"):
        parse(TASKS["choice"], "很好", "x")
    with pytest.raises(TaskError, match="x: no key 'sentence2'"):
        parse(TASKS["pair"], '{"sentence1": "a"}', "x")
    with pytest.raises(TaskError, match="x: not JSON"):
        parse(TASKS["ner"], '{"text": ', "x")
    with pytest.raises(TaskError, match="x: expected a JSON object"):
        parse(TASKS["classification"], '[ {"text": "很好"}]', "x")
    for text in ("[哈哈]很好", "{很好}", "{0}很好", "{", "[{很好}]"):
        assert parse(TASKS["classification"], text, "x") == {"text": text}


def test_an_example_without_a_gold_label_is_read_as_others_are():
    given = {"premise": "甲", "hypothesis": "乙", "label": "-"}
    assert parse(TASKS["pair"], given, "here") == {"sentence1": "甲", "sentence2": "乙"}


@pytest.mark.parametrize(
    ("task", "text"),
    [
        ("ner", "王\tB-PER\n明\tI-PER\n\n京 B-LOC\n"),
        ("pair", "sentence1\tsentence2\n甲\t乙\n"),
        ("classification", "label\ttext_a\n1\t很好\n"),
    ],
)
def test_a_text_file_is_read_as_fine_tuning_reads_it(task, text, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(text, "utf-8")
    kind = TASKS[task]
    found = [parse(kind, row, place) for place, row in read_input(str(path), kind, {})]
    known = read_task_file(kind, str(path), DataMistakes.none(), target_needed=task != "pair")
    assert found == [{key: row[key] for key in row if key != kind.target} for row in known]
    assert known


@pytest.mark.parametrize(
    ("task", "lines"),
    [
        ("ner", ["王明 B", "京 B-LOC"]),
        ("ner", ["王", "明"]),
        ("ner", ["# 王明", "# B-LOC 京"]),
        ("classification", ["text", "很好"]),
        ("classification", ['{"text": "好\\t坏", "label": 1}']),
        ("pair", ["很好\t不坏", "", "好\t坏"]),
    ],
)
def test_lines_of_text_are_an_example_each(task, lines, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("\n".join(lines), "utf-8")
    assert [line for _, line in read_input(str(path), TASKS[task], {})] == lines


@pytest.mark.parametrize(
    ("task", "record", "targets"),
    [
        ("choice", {"context": "他", "question": "", "choices": ["甲"]}, {"answer": ["x", "", 7]}),
        ("span", {"context": "在北京", "question": "哪"}, {"answers": [None, "", 5, "x", "['a']"]}),
        ("ner", {"text": "王"}, {"labels": [None, ["X"], "['B']"], "entities": [[[0]], [{}]]}),
        ("ner", {"text": "王"}, {"label": [{"P": ["王"]}, {"P": {"王": [0]}}, [[0, 9, "P"]]]}),
        ("multilabel", {"text": "好"}, {"labels": ["甲,乙", "[", None], "tags": ["['a']"]}),
        ("regression", {"text": "好"}, {"label": ["x", True], "score": ["x"]}),
    ],
)
def test_targets_are_not_looked_at(task, record, targets):
    expected = parse(TASKS[task], record, "here")
    for key, values in targets.items():
        for value in values:
            assert parse(TASKS[task], record | {key: value}, "here") == expected


@pytest.mark.parametrize("task", ["classification", "ner", "pair", "span"])
def test_a_text_that_is_null_is_blank(task):
    kind = TASKS[task]
    for key in kind.sample:
        assert kind.blank(parse(kind, kind.sample | {key: None}, "here"))


@pytest.mark.parametrize("task", ["classification", "ner"])
def test_a_line_of_bytes_that_are_no_text_is_not_blank(task, tmp_path):
    path = tmp_path / "cut.txt"
    path.write_bytes("好书\n书".encode()[:-1])
    (_, whole), (place, cut) = read_lines(str(path))
    assert parse(TASKS[task], whole, place)["text"] == "好书"
    with pytest.raises(TaskError, match=r"line 2, key t.*: bytes that are no text"):
        parse(TASKS[task], cut, place)


def test_a_third_column_is_no_part_of_a_pair():
    with pytest.raises(TaskError, match=r"x: expected two texts with one tab .*predict\.columns"):
        parse(TASKS["pair"], "很好\t很好\t是", "x")


@pytest.mark.parametrize(("columns", "text"), [({}, "x\ty\n"), ({"text": 7}, "x\ty\n")])
def test_messages_name_the_setting_of_this_verb(columns, text, tmp_path):
    (tmp_path / "a.tsv").write_text(text, "utf-8")
    with pytest.raises(TaskError, match=r"line 1: .*predict\.columns (says|to)"):
        list(read_input(str(tmp_path / "a.tsv"), TASKS["classification"], columns))


@pytest.mark.parametrize("space", [" ", "  ", "\u3000 "])
def test_columns_are_read_as_in_fine_tuning(space, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(f"# id 7 domain=zh\n王 B-PER\n{space}O\n京 B-LOC\n", "utf-8")
    ((_, example),) = read_input(str(path), TASKS["ner"], {})
    assert example["tokens"] == ["王", " ", "京"]


def test_an_answer_replaces_no_field():
    with pytest.raises(TaskError, match="x: the answer would replace the key prediction"):
        parse(TASKS["classification"], {"text": "好", "prediction": 1}, "x")


@pytest.mark.parametrize("name", ["in.csv", "in.tsv"])
def test_a_blank_line_of_one_column_is_a_blank_text(name, tmp_path):
    (tmp_path / name).write_text("\ntext\n好\n\n \n坏\n", "utf-8")
    kind = TASKS["classification"]
    rows = [row for _, row in read_input(str(tmp_path / name), kind, {})]
    assert [row["text"].strip() for row in rows] == ["好", "", "", "坏"]
    (tmp_path / name).write_text(
        "\ntext,label\n好,1\n\n坏,0\n".replace(",", "," if name.endswith("csv") else "\t"), "utf-8"
    )
    assert len(list(read_input(str(tmp_path / name), kind, {}))) == 2


def test_another_folder_is_refused(export):
    with pytest.raises(ExportError, match=r"not the result of `python -m jobs\.finetune`"):
        next(predict(str(export), [("x", "京")]))
    assert Path(export, "config.json").exists()


def test_a_damaged_head_is_refused(head, tmp_path):
    """Weights that are missing would be drawn at random, and answer all the same."""
    folder = Path(shutil.copytree(head("classification").folder, tmp_path / "head"))
    whole = (folder / "model.safetensors").read_bytes()
    weights = load_file(folder / "model.safetensors")
    del weights["classifier.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ExportError, match=r"1 weights .* are missing, first classifier\.weight"):
        Head.load(str(folder))
    (folder / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(ExportError, match="its network cannot be loaded"):
        Head.load(str(folder))
    for results in ("{}", "[]", '{"task": "poetry"}'):
        (folder / RESULTS).write_text(results)
        with pytest.raises(ExportError, match=r"results\.json names no task"):
            Head.load(str(folder))


def test_text_is_cleaned_as_the_corpus_was_where_the_tokenizer_cannot(head, data, tmp_path):
    """Tags go, for tasks whose answers have no places of characters."""
    folder = Path(shutil.copytree(head("classification").folder, tmp_path / "head"))
    plain, tagged = "书店很好", "<p>书店<b>很好</b></p>"

    def answer(text):
        return next(predict(str(folder), [("x", text)]))["prediction"]["probabilities"]

    assert answer(plain) != pytest.approx(answer(tagged))
    (folder / LINEAGE).write_text(json.dumps({"cleaning": ["html", "width"]}))
    assert answer(plain) == pytest.approx(answer(tagged))
    assert left_steps(folder) == ["html"]
    assert packages(folder) == ()


@pytest.mark.parametrize("task", ["classification", "ner"])
@pytest.mark.parametrize("name", ["in.csv", "in.tab", "in.jsonl", "in.pq"])
def test_an_empty_cell_is_a_blank_text(name, task, tmp_path):
    key = "review" if task == "classification" else "text"
    rows = [{key: "好", "id": 1}, {key: None, "id": 2}]
    if name.endswith("pq"):
        parquet.write_table(pa.Table.from_pylist(rows), tmp_path / name)
    elif name.endswith("jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    else:
        text = f"{key},id\n好,1\n,2\n".replace(",", "," if name.endswith("csv") else "\t")
        (tmp_path / name).write_text(text, "utf-8")
    kind = TASKS[task]
    found = [parse(kind, row, place) for place, row in read_input(str(tmp_path / name), kind, {})]
    assert [each["text"] for each in found] == ["好", ""]
    assert [bool(kind.blank(each)) for each in found] == [False, True]


@pytest.mark.parametrize("name", ["in.csv", "in.tsv", "in.json", "in.parquet"])
def test_tables_and_published_files_are_predicted_as_lines_are(name, head, tmp_path):
    folder, path = head("pair").folder, tmp_path / name
    rows = [
        {"sentence1": "书店很好", "sentence2": "很好"},
        {"sentence1": "坏", "sentence2": "很好"},
    ]
    if name.endswith("parquet"):
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif name.endswith("json"):
        path.write_text(json.dumps(rows), "utf-8")
    else:
        mark = "," if name.endswith("csv") else "\t"
        lines = [list(rows[0]), *(row.values() for row in rows)]
        path.write_text("".join(mark.join(each) + "\n" for each in lines), "utf-8")
    task = TASKS["pair"]
    found = list(predict(folder, read_input(str(path), task, {})))
    given = [(str(i), json.dumps(row)) for i, row in enumerate(rows)]
    assert found == list(predict(folder, given))


@pytest.mark.ray
def test_workers_wait_for_gpus_that_the_cluster_starts(ray_cluster):
    scaling = ScalingSettings(workers=1, gpus_per_worker=1, wait_seconds=0.5)
    given = "head", "ner", "lines.jsonl", {}, 2, 2, scaling, Lines().say
    with pytest.raises(ConfigError, match="2 GPUs and the cluster has 0"):
        list(predict_on_cluster(*given))


class ProcessNumber:
    """Stands for a worker that holds a head; the answer to each line is the worker's process.

    It waits until another one has lines too: the first could answer all before the next starts.
    """

    def __init__(self, folder, *arguments):
        self.folder = Path(folder)

    def __call__(self, block):
        (self.folder / f"{os.getpid()}.worker").touch()
        deadline = time.monotonic() + 60
        while len(list(self.folder.glob("*.worker"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        rows = [{"line": json.loads(line), "by": os.getpid()} for line in block["line"]]
        return {"answer": list(map(json.dumps, rows)), "error": [""] * len(rows)}


@pytest.mark.ray
def test_workers_share_a_small_file_and_may_have_all_cpus(ray_cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(on_cluster, "_Worker", ProcessNumber)
    path = tmp_path / "in.txt"
    lines = ["书店很好" * 20 + str(number) for number in range(6000)]
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    workers = int(ray.cluster_resources()["CPU"])
    given = str(tmp_path), "classification", str(path), {}, 32, workers, ANY, Lines().say
    found = list(predict_on_cluster(*given))
    assert [row["line"] for row in found] == lines
    assert len({row["by"] for row in found}) > 1


@pytest.mark.long
@pytest.mark.ray
def test_workers_answer_in_the_order_of_the_lines(head, ray_cluster, tmp_path, monkeypatch):
    folder, path = head("classification").folder, tmp_path / "in.txt"
    lines = ["书店很好" if number % 3 else "" for number in range(3000)]
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    given = folder, "classification", str(path), {}, 32, 2, ANY, Lines().say
    found = list(predict_on_cluster(*given))
    assert [row["text"] for row in found] == lines
    (expected,) = predict(folder, [("x", "书店很好")])
    assert found[1]["prediction"]["label"] == expected["prediction"]["label"]
    assert found[0]["prediction"] is None
    path.write_text('书店\n{"text": 3}\n', "utf-8")
    with pytest.raises(TaskError, match=r"in\.txt, line 2, key text: expected str"):
        list(predict_on_cluster(*given))
