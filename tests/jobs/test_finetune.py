"""The verbs finetune and predict, from settings to files."""

import io
import json
import random

import mlflow
import pytest
from rich.console import Console

from jobs import finetune, predict
from jobs.command import main
from jobs.output.progress import ConsoleProgress
from tests.pipeline.finetuning.in_process import finetune as fine_tune


@pytest.mark.long
@pytest.mark.ray
def test_fine_tune_record_and_predict(export, ray_cluster, tmp_path, capsys, monkeypatch):
    draw = random.Random(0)
    rows = []
    for _ in range(64):
        tokens = [draw.choice("张王"), draw.choice("明华"), "在", draw.choice("京沪")]
        rows.append({"tokens": tokens, "labels": ["B-PER", "I-PER", "O", "B-LOC"]})
    data = tmp_path / "ner.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    arguments = [
        f"run.storage={tmp_path}",
        "run.name=r",
        "finetune.task=ner",
        f"finetune.checkpoint={export}",
        *(f"finetune.data.{split}={data}" for split in ("train", "dev", "test")),
        "finetune.epochs=3",
        "finetune.lr=2e-2",
        "finetune.batch=8",
        "finetune.search.seeds=[1, 2]",
    ]
    assert main(finetune.VERB, [*arguments, "--dry-run"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["ner.jsonl"]
    assert "choose the best epoch on" in capsys.readouterr().out

    assert main(finetune.VERB, arguments) == 0
    out = capsys.readouterr().out
    folder = tmp_path / "r" / "heads" / "ner"
    results = json.loads((folder / "results.json").read_text("utf-8"))
    assert f"predict.model={folder}" in out
    assert f"{100 * results['score']:.1f}" in out
    assert "over 2 seed(s)" in out
    assert results["kept"]["rule"] == "median of 2 seeds by dev f1"
    judged = {path.name for path in (folder / "judged").iterdir()}
    assert judged > {"test.jsonl", "worst_test.json", "confusion_dev.png", "calibration_test.png"}
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    found = client.search_runs([client.get_experiment_by_name("nezha").experiment_id])
    (run,) = (each for each in found if "mlflow.parentRunId" not in each.data.tags)
    assert len(found) == 3
    assert run.info.status == "FINISHED"
    assert run.data.params["finetune.lr"] == "0.02"
    assert run.data.tags["task"] == "ner"
    assert run.data.metrics["test/f1"] == pytest.approx(results["test"]["f1"])
    curve = client.get_metric_history(run.info.run_id, "dev/f1")
    assert [point.value for point in curve] == pytest.approx([e["f1"] for e in results["epochs"]])

    (tmp_path / "in.txt").write_text("张明在京\n\n王华在沪，\n", "utf-8")
    wanted = [f"predict.model={folder}", f"predict.input={tmp_path / 'in.txt'}"]
    assert main(predict.VERB, wanted) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in printed] == ["张明在京", "", "王华在沪，"]
    assert printed[1]["prediction"] is None
    registered = f"run.storage={tmp_path}", "predict.model=models:/nezha-ner@candidate"
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/none.db")  # a new process does not know it
    assert main(predict.VERB, [*registered, wanted[1]]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == printed
    assert main(predict.VERB, [registered[0], "predict.model=models:/nezha-ner/9", wanted[1]]) == 2
    assert "models:/nezha-ner/9: " in capsys.readouterr().err
    assert main(predict.VERB, [*wanted, f"predict.output={tmp_path / 'out.jsonl'}"]) == 0
    written = (tmp_path / "out.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line) for line in written] == printed
    (tmp_path / "bad.txt").write_text('张明在京\n{"text": "王\n', "utf-8")
    bad = [wanted[0], f"predict.input={tmp_path / 'bad.txt'}", f"predict.output={tmp_path / 'o'}"]
    assert main(predict.VERB, bad) == 2
    assert "bad.txt, line 2: not JSON" in capsys.readouterr().err
    assert not list(tmp_path.glob("o*.tmp"))
    assert not (tmp_path / "o").exists()

    monkeypatch.setattr(
        "sys.stdin",
        io.TextIOWrapper(io.BytesIO("\ufeff张明在京\r\n\r\n王华在沪，".encode()), "ascii"),
    )
    assert main(predict.VERB, wanted[:1]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == printed
    check_a_second_head(folder, arguments, tmp_path, capsys)


def check_a_second_head(folder, arguments, tmp_path, capsys):
    """Another task of the kind never replaces the first in silence."""
    before = (folder / "results.json").read_bytes()
    other = tmp_path / "other.jsonl"
    rows = [{"tokens": ["张", "在", each], "labels": ["O", "O", "B-X"]} for each in "京沪" * 4]
    other.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    second = [*arguments, *(f"finetune.data.{split}={other}" for split in ("train", "dev", "test"))]
    for dry in (["--dry-run"], []):
        assert main(finetune.VERB, [*second, *dry]) == 2
        message = capsys.readouterr().err
        assert "holds a head for ner, trained on" in message
        assert "another finetune.name" in message
    # It starts from the version of the first, which the registry keeps.
    start = "finetune.checkpoint=models:/nezha-ner"
    assert main(finetune.VERB, [*second, "finetune.name=second", f"{start}/9"]) == 2
    assert "models:/nezha-ner/9: " in capsys.readouterr().err
    assert main(finetune.VERB, [*second, "finetune.name=second", f"{start}@candidate"]) == 0
    results = json.loads((folder.parent / "second" / "results.json").read_text("utf-8"))
    assert results["export"].startswith(f"{folder.parents[1]}/registered/")
    assert (folder / "results.json").read_bytes() == before


def test_a_repeated_command_records_nothing_twice(export, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        finetune,
        "finetune_all",
        lambda jobs, *_: [fine_tune(j.settings, j.export, j.output, j.seed) for j in jobs],
    )
    data = tmp_path / "labelled.jsonl"
    rows = [{"text": text, "label": text} for text in "张王" * 4]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    arguments = [
        f"run.storage={tmp_path}",
        f"finetune={{task: classification, checkpoint: {export}, data: {{train: {data}}}}}",
    ]

    def made() -> tuple[int, int]:
        """Runs, nested ones included, and versions."""
        versions = client.search_model_versions("name='nezha-classification'")
        return len(client.search_runs(["1"])), len(versions)

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    for _ in range(2):
        assert main(finetune.VERB, arguments) == 0
        assert made() == (2, 1)
    client.delete_registered_model("nezha-classification")
    assert main(finetune.VERB, arguments) == 0
    assert made() == (4, 1)
    assert main(finetune.VERB, [*arguments, "finetune.epochs=2"]) == 0
    assert made() == (6, 2)
    mine = tmp_path / "nezha" / "heads" / "mine"
    mine.mkdir()
    (mine / "notes.txt").touch()
    assert main(finetune.VERB, [*arguments, "finetune.name=mine"]) == 2
    assert f"{mine} holds no head" in capsys.readouterr().err
    assert (mine / "notes.txt").exists()


@pytest.mark.parametrize("name", ["a/b", "..", "."])
def test_the_name_of_a_head_is_a_folder(name, capsys):
    assert main(finetune.VERB, [f"finetune.name={name}", "--dry-run"]) == 2
    assert "finetune.name: must be the name of a folder" in capsys.readouterr().err


def test_mistakes_are_one_message(tmp_path, capsys):
    assert main(finetune.VERB, ["--dry-run"]) == 2
    message = capsys.readouterr().err
    assert "finetune.task: choose one of" in message
    assert "finetune.data.train: name the training examples" in message
    assert main(predict.VERB, []) == 2
    assert "predict.model: name a folder" in capsys.readouterr().err
    assert main(predict.VERB, [f"predict.model={tmp_path}", "--dry-run"]) == 2
    assert "not the result of" in capsys.readouterr().err
    (tmp_path / "results.json").write_text('{"task": "ner"}')
    nowhere = [f"predict.model={tmp_path}", f"predict.output={tmp_path}/no/out.jsonl"]
    assert main(predict.VERB, nowhere) == 2
    assert f"predict.output: there is no folder {tmp_path}/no" in capsys.readouterr().err
    file = tmp_path / "in.jsonl"
    file.touch()
    for text, told in (
        (f"predict.output={tmp_path}", f"{tmp_path} is a folder"),
        (f"predict.output={file}", f"{file} is the input"),
        (f"predict.output={tmp_path}/out.jsonl.gz", "would not be compressed; leave .gz out"),
        ("predict.columns={txt: review}", "columns: ner has no field txt; it has id, labels, text"),
    ):
        assert main(predict.VERB, [*nowhere[:1], f"predict.input={file}", text]) == 2
        assert told in capsys.readouterr().err
    absent = ["finetune.task=ner", "finetune.data={train: /absent/a, dev: s3://b/c}"]
    assert main(finetune.VERB, [*absent, "--dry-run"]) == 2
    assert "finetune.data.train: /absent/a: no such file" in capsys.readouterr().err
    assert main(finetune.VERB, ["finetune.task=ner", "finetune.data.columns={lable: y}"]) == 2
    assert "finetune.data.columns: ner has no field lable; it has" in capsys.readouterr().err


def test_predicting_many_lines_shows_how_far_it_is():
    """The file of a million answers appears at their end, and nothing was shown before."""
    console = Console(file=io.StringIO())
    given = [f"{number}\n" for number in range(2500)]
    assert list(predict._counted(given, ConsoleProgress(console))) == given
    assert console.file.getvalue() == "   1,024 lines are answered\n"
