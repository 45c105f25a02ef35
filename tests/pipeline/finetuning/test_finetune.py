"""Fine-tuning small networks on small data: they learn, repeatably, and the folder stands alone."""

import json
import random
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from pipeline.errors import TrainingError
from pipeline.files.disk import OWN
from pipeline.finetuning import result as results
from pipeline.finetuning.finetune import finetune_with
from pipeline.finetuning.tasks import TASKS
from pipeline.finetuning.trials.running import Finetuning, StoppedEarly, run_trials
from pipeline.finetuning.trials.trial import read_predictions
from tests.full_disk import largest_file
from tests.pipeline.finetuning.conftest import settings, write_rows
from tests.pipeline.finetuning.in_process import finetune
from tests.reported import Lines

RECIPE = {
    "classification": {"epochs": 4, "least": 0.9},
    "pair": {"epochs": 4, "least": 0.9},
    "ner": {"epochs": 3, "least": 0.9},
    "choice": {"epochs": 4, "least": 0.9},
    "span": {"epochs": 6, "least": 0.8},
    "multilabel": {"epochs": 6, "least": 0.8},
    "regression": {"epochs": 6, "least": 0.8},
    "similarity": {"epochs": 6, "least": 0.8},
}


@pytest.fixture(scope="module")
def trained(export, data, tmp_path_factory):
    """Results of all tasks, each trained when first asked for."""
    known = {}

    def get(task):
        if task not in known:
            chosen = settings(task, data, epochs=RECIPE[task]["epochs"])
            known[task] = finetune(
                chosen, str(export), tmp_path_factory.mktemp("heads") / task, seed=1
            )
        return known[task]

    return get


@pytest.mark.parametrize("task", TASKS)
def test_a_task_is_learnt(task, trained):
    result = trained(task)
    assert result.score >= RECIPE[task]["least"]
    assert result.score == result.test[result.metric]
    assert result.metric == TASKS[task].metric == next(iter(result.test))
    assert result.epochs[-1]["loss"] < 0.7 * result.epochs[0]["loss"]
    best = max(epoch[result.metric] for epoch in result.epochs)
    assert result.dev[result.metric] == best
    assert json.loads(Path(result.folder, "results.json").read_text())["test"] == result.test


def test_the_same_arguments_give_the_same_weights(export, data, trained, tmp_path):
    first = trained("ner")
    state = torch.random.get_rng_state()
    again = finetune(settings("ner", data, epochs=3), str(export), tmp_path / "ner", seed=1)
    assert again.epochs == first.epochs
    weights = [Path(each.folder, "model.safetensors").read_bytes() for each in (first, again)]
    assert weights[0] == weights[1]
    assert torch.equal(state, torch.random.get_rng_state()), "the caller's generator moved"
    assert not torch.are_deterministic_algorithms_enabled()
    other = finetune(settings("ner", data, epochs=3), str(export), tmp_path / "other", seed=2)
    assert other.epochs != first.epochs


def test_a_result_is_kept_until_something_changes(export, data, trained):
    first = trained("classification")
    lines = Lines()

    def again(**more):
        chosen = settings("classification", data, **({"epochs": 4} | more))
        return finetune(chosen, str(export), Path(first.folder), 1, progress=lines)

    assert again() == again(gpus=0.5) == first
    assert lines == [f"head: {first.folder} is up to date"] * 2
    assert again(epochs=1) != first
    assert "which will be replaced" in lines[2]
    assert sum("240 train, 60 dev, 60 test examples" in line for line in lines[3:]) == 1
    assert again().epochs == first.epochs
    assert sum("240 train" in line for line in lines) == 2


def test_a_file_under_a_name_of_another_form_is_other_data(export, data, tmp_path):
    """In CSV quotes stand around a text; in TSV they are a part of it."""
    rows = ["text\tlabel", *['"很好"\t1', '"太坏"\t0'] * 4]
    found = []
    for name in ("a.tsv", "a.csv"):
        train = write_rows(tmp_path / name, *rows)
        chosen = settings("classification", {"classification": {"train": train}}, epochs=1)
        found.append(finetune(chosen, str(export), tmp_path / "head", 1))
    assert found[0].epochs != found[1].epochs


def test_the_tokenizer_of_a_head_neither_cuts_nor_pads(trained):
    tokenizer = Tokenizer.from_file(f"{trained('classification').folder}/tokenizer.json")
    assert tokenizer.truncation is tokenizer.padding is None


def test_a_search_without_halving_is_another_one(export, data, tmp_path):
    def run(works):
        return [work.function(*work.arguments, say=lambda line: None, disk=OWN) for work in works]

    def halve(trials, metric):
        stopped = {trial.folder: StoppedEarly("stopped") for trial in trials[1:]}
        return run_trials(run, trials[:1]) | stopped

    tried = []
    for halving in (True, False):
        grid = {"lr": [5e-3, 1e-9], "halving": halving}
        chosen = settings("classification", data, epochs=2, search=grid)
        job = Finetuning("head", chosen, str(export), tmp_path / "head", 1)
        (result,) = finetune_with(run, [job], Lines(), halve)
        tried.append(sum(not each["error"] for each in result.trials))
    assert tried == [1, 2]


def test_the_folder_needs_transformers_only(trained, tmp_path):
    """Loaded in another process, from elsewhere, by its own code."""
    program = """
import sys, torch
from transformers import AutoModelForTokenClassification, AutoTokenizer
network = AutoModelForTokenClassification.from_pretrained(sys.argv[1], trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
assert "model" not in sys.modules
logits = network(**tokenizer("王明在京，", return_tensors="pt")).logits[0]
print(" ".join(network.config.id2label[int(i)] for i in logits.argmax(-1)[1:-1]))
"""
    run = subprocess.run(
        [sys.executable, "-c", program, trained("ner").folder],
        cwd=tmp_path,
        env={"PATH": "", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.stdout.split() == ["B-PER", "I-PER", "O", "B-LOC", "O"], run.stderr
    assert Path(trained("ner").folder, "vocab.txt").is_file()


def test_a_grid_is_judged_by_the_mean_over_seeds(export, data, tmp_path):
    search = {"lr": [1e-9, 5e-3], "seeds": [3, 4, 5]}
    chosen = settings("ner", data, epochs=1, search=search)
    lines = Lines()
    result = finetune(chosen, str(export), tmp_path / "grid", seed=1, progress=lines)
    points = [(each["lr"], each["seed"]) for each in result.trials]
    assert points == [(lr, seed) for lr in (1e-9, 5e-3) for seed in (3, 4, 5)]
    good = [each for each in result.trials if each["lr"] == 5e-3]
    tests = [each["test"]["f1"] for each in good]
    assert result.score == pytest.approx(statistics.mean(tests))
    assert result.deviation == pytest.approx(statistics.stdev(tests))
    median = statistics.median(each["dev"]["f1"] for each in good)
    middle = next(each for each in good if each["dev"]["f1"] == median)
    assert result.kept == {
        "lr": 5e-3,
        "batch": 16,
        "seed": middle["seed"],
        "rule": "median of 3 seeds by dev f1",
    }
    assert result.test == middle["test"]
    # The kept head is that of the same seed alone, and no trial is computed again.
    single = settings("ner", data, epochs=1)
    lines.clear()
    alone = finetune(
        single, str(export), tmp_path / "x" / "single", int(middle["seed"]), progress=lines
    )
    assert (alone.test, alone.epochs) == (result.test, result.epochs)
    weights = [Path(r.folder, "model.safetensors").read_bytes() for r in (alone, result)]
    assert weights[0] == weights[1]
    assert any(": epoch " in line for line in lines)
    lines.clear()
    wider = settings("ner", data, epochs=1, search=search | {"seeds": [3, 4, 5, 6]})
    finetune(wider, str(export), tmp_path / "grid", seed=1, progress=lines)
    computed = sum(": epoch " in line for line in lines)
    assert computed in (2, 3)  # seed 6 twice, and perhaps the head that was moved away


def test_a_trial_that_fails_is_named_and_loses_no_other(export, data, tmp_path):
    lines = Lines()
    search = {"lr": [1e30, 5e-3]}
    chosen = settings("ner", data, epochs=1, search=search)
    result = finetune(chosen, str(export), tmp_path / "grid", seed=1, progress=lines)
    assert result.score > 0.3
    assert "lower finetune.lr" in result.trials[0]["error"]
    assert any("failed: head lr 1e+30 batch 16 seed 1: the loss of" in line for line in lines)
    # It is tried again, the other is not, and the head stays as it is.
    lines.clear()
    made = (tmp_path / "grid" / "results.json").stat().st_mtime_ns
    again = finetune(chosen, str(export), tmp_path / "grid", seed=1, progress=lines)
    assert again == result
    assert (tmp_path / "grid" / "results.json").stat().st_mtime_ns == made
    assert "a result without the trials that failed, which are tried again" in lines[0]
    assert any("failed: head lr 1e+30" in line for line in lines)


def test_predictions_of_all_examples_are_kept(trained, data):
    result = trained("pair")
    facts = json.loads(Path(result.folder, "results.json").read_text("utf-8"))
    for name in ("dev", "test"):
        examples, found = read_predictions(Path(facts["trial_folder"], f"{name}.jsonl"))
        rows = [json.loads(line) for line in Path(data["pair"][name]).read_text().splitlines()]
        assert [each["label"] for each in examples] == [each["label"] for each in rows]
        right = [e["label"] == a["label"] for e, a in zip(examples, found, strict=True)]
        assert sum(right) / len(right) == getattr(result, name)["accuracy"]
    assert 0.4 < result.trivial["test"]["accuracy"] < 0.65


def test_a_disk_that_was_full_when_a_head_was_finished(export, data, tmp_path, monkeypatch):
    """`results.json` was empty then, and every later start ended with a traceback."""
    chosen, move = settings("pair", data, epochs=1), results._move_head

    def on_a_full_disk(*arguments):
        with largest_file(100):
            move(*arguments)

    monkeypatch.setattr(results, "_move_head", on_a_full_disk)
    with pytest.raises(OSError, match=r"File too large: .*results\.json"):
        finetune(chosen, str(export), tmp_path / "head", seed=1)
    assert not (tmp_path / "head").exists()
    monkeypatch.undo()
    lines = Lines()
    finetune(chosen, str(export), tmp_path / "head", seed=1, progress=lines)
    assert not any("epoch" in line for line in lines)  # the trial was kept
    assert (tmp_path / "head" / "model.safetensors").is_file()


def test_a_head_that_was_moved_names_its_new_places(export, data, tmp_path):
    """It could not be recorded in MLflow: `folder` and `trial_folder` were not there."""
    chosen = settings("pair", data, epochs=1)
    finetune(chosen, str(export), tmp_path / "old" / "head", seed=1)
    (tmp_path / "old").rename(tmp_path / "new")
    moved = shutil.copytree(export, tmp_path / "export")
    result = finetune(chosen, str(moved), tmp_path / "new" / "head", seed=1)
    facts = json.loads((tmp_path / "new" / "head" / "results.json").read_text("utf-8"))
    assert result.folder == facts["folder"] == str(tmp_path / "new" / "head")
    assert facts["export"] == str(moved)
    assert Path(facts["trial_folder"], "dev.jsonl").is_file()


def test_examples_caps_training_and_without_dev_the_last_epoch_stays(export, data, tmp_path):
    only_train = {"ner": {"train": data["ner"]["train"], "examples": 40}}
    lines = Lines()
    result = finetune(
        settings("ner", only_train, epochs=2), str(export), tmp_path / "x", 1, progress=lines
    )
    assert "40 train" in lines[0]
    assert result.score is None
    assert [list(epoch) for epoch in result.epochs] == [["loss"], ["loss"]]


def test_test_examples_without_targets_are_predicted(export, data, tmp_path):
    rows = [{"text": "京好", "id": "a"}, {"text": "坏", "id": "b"}]
    files = data["classification"] | {"test": write_rows(tmp_path / "test.jsonl", *rows)}
    lines = Lines()
    chosen = settings("classification", {"classification": files}, epochs=1)
    result = finetune(chosen, str(export), tmp_path / "out", seed=1, progress=lines)
    assert result.test == {}
    assert result.score == result.dev["accuracy"]
    file = tmp_path / "out" / "predictions.jsonl"
    assert lines[-1] == f"head: the test examples have no label: predictions in {file}"
    found = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    assert [row["id"] for row in found] == ["a", "b"]
    assert {row["prediction"]["label"] for row in found} <= {"0", "1"}


@pytest.mark.parametrize("scheme", ["IOB1", "BIOES"])
def test_right_answers_in_another_scheme_score_1(scheme, export, data, tmp_path):
    def rewritten(split):
        rows = [json.loads(line) for line in Path(data["ner"][split]).read_text().splitlines()]
        for row in rows:
            labels = [*row["labels"], "O"]
            for i, label in enumerate(row["labels"]):
                if scheme == "IOB1" and label[0] == "B" and labels[i - 1][2:] != label[2:]:
                    row["labels"][i] = f"I-{label[2:]}"
                elif scheme == "BIOES" and label[0] != "O" and labels[i + 1][0] != "I":
                    row["labels"][i] = f"{'S' if label[0] == 'B' else 'E'}-{label[2:]}"
        return write_rows(tmp_path / f"{split}.jsonl", *rows)

    files = {split: rewritten(split) for split in ("train", "dev", "test")}
    lines = Lines()
    chosen = settings("ner", {"ner": files}, epochs=RECIPE["ner"]["epochs"])
    result = finetune(chosen, str(export), tmp_path / "out", seed=1, progress=lines)
    assert "are read as IOB1, BIOES" in lines[0]
    assert result.test["f1"] >= RECIPE["ner"]["least"]


def test_a_pair_head_scores_the_same_in_plain_transformers(export, tmp_path):
    """The label says which of the two texts has 好, so that the segments decide."""
    draw = random.Random(1)

    def example():
        label = draw.randrange(2)
        texts = ["".join(draw.choice("书店很太的是") for _ in range(4)) for _ in range(2)]
        texts[label] = texts[label][:2] + "好" + texts[label][2:]
        return {"sentence1": texts[0], "sentence2": texts[1], "label": label}

    files = {
        split: write_rows(tmp_path / f"{split}.jsonl", *(example() for _ in range(size)))
        for split, size in (("train", 400), ("test", 60))
    }
    chosen = settings("pair", {"pair": files}, epochs=6)
    result = finetune(chosen, str(export), tmp_path / "pair", seed=1)
    tokenizer = AutoTokenizer.from_pretrained(result.folder)
    network = AutoModelForSequenceClassification.from_pretrained(result.folder).eval()
    rows = [json.loads(line) for line in Path(files["test"]).read_text("utf-8").splitlines()]
    inputs = tokenizer(
        [row["sentence1"] for row in rows],
        [row["sentence2"] for row in rows],
        padding=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        found = network(**inputs).logits.argmax(-1)
    right = sum(int(a) == row["label"] for a, row in zip(found, rows, strict=True))
    assert right / len(rows) == pytest.approx(result.test["accuracy"], abs=0.02)
    assert result.test["accuracy"] > 0.9


def test_a_loss_that_explodes_is_an_error(export, data, tmp_path):
    with pytest.raises(TrainingError, match=r"lower finetune\.lr"):
        finetune(settings("ner", data, lr=1e30, epochs=2), str(export), tmp_path / "out", seed=1)


@pytest.mark.parametrize("task", ["classification", "ner"])
def test_without_a_test_set_the_score_is_that_of_dev(task, export, data, tmp_path):
    chosen = settings(task, {task: data[task] | {"test": ""}}, epochs=1)
    result = finetune(chosen, str(export), tmp_path / task, seed=1)
    assert result.test == {}
    assert result.score == result.dev[result.metric]
