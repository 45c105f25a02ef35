"""Fine-tunings as Ray tasks."""

import os

import pytest
import torch
from rich.console import Console

from jobs.output.progress import ConsoleProgress
from pipeline.cluster import ray_cluster as ray_cluster_of_process
from pipeline.cluster.calls import ANY, threads_of_a_task
from pipeline.errors import ConfigError, TaskError
from pipeline.finetuning.prediction.predict_on_cluster import predict_on_cluster
from pipeline.finetuning.trials import on_cluster
from pipeline.finetuning.trials.on_cluster import finetune_all
from pipeline.finetuning.trials.running import Finetuning
from pipeline.settings.finetuning import FinetuneSettings
from tests.pipeline.cluster.own_disks import hide_the_disk
from tests.pipeline.finetuning.in_process import finetune
from tests.reported import Lines


def job(name, data, export, output, seed=1, **more):
    values = {"task": "ner", "lr": 5e-3, "batch": 16, "epochs": 1, "data": data["ner"]} | more
    return Finetuning(name, FinetuneSettings.model_validate(values), str(export), output, seed)


@pytest.mark.ray
def test_results_come_in_order_and_lines_with_their_names(
    ray_cluster, export, data, tmp_path, monkeypatch
):
    """Also with relative paths, which are those of the driver."""
    monkeypatch.chdir(tmp_path)
    places = {name: os.path.relpath(path) for name, path in data["ner"].items()}
    runs = [
        job("a", {"ner": places}, os.path.relpath(export), tmp_path / "a"),
        job("b", data, export, tmp_path / "b", seed=2),
    ]
    lines, cpus = Lines(), ray_cluster_of_process.cpus_by_node()
    results = finetune_all(runs, lines)
    assert [result.folder for result in results] == [str(tmp_path / "a"), str(tmp_path / "b")]
    for name in "ab":
        assert [line for line in lines if line.startswith(f"{name}: ")][-1].startswith(
            f"{name}: epoch 1/1"
        )
    assert results[0].test["f1"] > 0.5
    before = torch.get_num_threads()
    torch.set_num_threads(threads_of_a_task(2, cpus))
    try:
        here = finetune(runs[1].settings, str(export), tmp_path / "here", seed=2)
    finally:
        torch.set_num_threads(before)
    assert here.epochs[0] == results[1].epochs[0]


@pytest.mark.ray
def test_workers_without_the_commands_disk_make_the_same_heads(
    ray_cluster, export, data, tmp_path, monkeypatch
):
    hide_the_disk(monkeypatch, tmp_path / "node")
    search = {"lr": [5e-3, 1e-4], "halving": True}
    runs = [
        job("plain", data, export, tmp_path / "heads" / "plain"),
        job("search", data, export, tmp_path / "heads" / "search", epochs=2, search=search),
    ]
    lines = Lines()
    results = finetune_all(runs, lines)
    monkeypatch.undo()
    seen = finetune_all([runs[0]._replace(output=tmp_path / "seen" / "plain")], Lines())
    assert results[0].epochs == seen[0].epochs
    names = [
        {each.name for each in (tmp_path / of).iterdir()} for of in ("heads/plain", "seen/plain")
    ]
    assert names[0] == names[1]
    assert {each.name for each in (tmp_path / "heads").iterdir()} == {"plain", "search", ".trials"}
    assert not list((tmp_path / "node").rglob("result.json"))
    again = finetune_all(runs, lines)
    assert again == results
    assert sum("is up to date" in line for line in lines) == 2

    (tmp_path / "in.jsonl").write_text('{"tokens": ["北", "京"]}\n' * 3, "utf-8")
    hide_the_disk(monkeypatch, tmp_path / "node")
    given = results[0].folder, "ner", str(tmp_path / "in.jsonl"), {}, 2, 1, ANY, Lines().say
    assert len(list(predict_on_cluster(*given))) == 3


@pytest.mark.ray
def test_a_mistake_is_told_as_it_is_before_anything_is_trained(ray_cluster, export, data, tmp_path):
    bad = {"ner": data["ner"] | {"dev": data["pair"]["dev"]}}
    runs = [
        job("long", data, export, tmp_path / "long", epochs=1000),
        job("bad", bad, export, tmp_path / "bad"),
    ]
    lines = Lines()
    with pytest.raises(
        TaskError, match=r"(?s)^bad: .*pair-dev\.jsonl, line 1: no key 'tokens'"
    ) as told:
        finetune_all(runs, lines)
    assert not any("failed" in line for line in lines), "the error tells it"
    assert type(told.value) is TaskError
    assert told.value.__cause__ is None
    assert not (tmp_path / "long").exists()


@pytest.mark.slow
@pytest.mark.ray
def test_a_group_has_the_result_of_one_worker(ray_cluster, export, data, tmp_path):
    """To rounding, without dropout; its folder is written once, and lines are shown once."""
    found = {}
    for workers in (1, 2):
        values = {"workers": workers, "dropout": 0.0, "precision": "fp32"}
        run = job(f"{workers}", data, export, tmp_path / f"{workers}" / "head", **values)
        lines = Lines()
        (found[workers],) = finetune_all([run], lines)
        assert sum(line.startswith(f"{workers}: epoch 1/1") for line in lines) == 1
        assert [each.name for each in run.output.parent.iterdir()].count("head") == 1
        trials = list((run.output.parent / ".trials").iterdir())
        assert len(trials) == 1  # and no temporary folder
    one, two = found[1], found[2]
    assert two.epochs[0]["loss"] == pytest.approx(one.epochs[0]["loss"], rel=1e-4)
    assert two.dev["f1"] == pytest.approx(one.dev["f1"], abs=0.03)
    assert two.test["f1"] == pytest.approx(one.test["f1"], abs=0.03)
    (again,) = finetune_all([run], Lines())
    assert again == two


@pytest.mark.ray
def test_more_workers_than_the_cluster_holds_are_refused(ray_cluster, export, data, tmp_path):
    run = job("ner", data, export, tmp_path / "head", workers=9)
    with pytest.raises(
        ConfigError, match=r"ner: finetune\.workers=9: needs 9 CPUs and the cluster has \d;"
    ):
        finetune_all([run], Lines())


@pytest.mark.long
@pytest.mark.ray
def test_halving_stops_bad_trials_and_gives_the_best_point_all_seeds(
    ray_cluster, export, data, tmp_path, monkeypatch
):
    """One trial at a time, the best first: those after it are worse and end early.

    Of trials that run together, the worse ones may report first, and then none is stopped. It
    reports to the console as the command does, which Tune could not save.
    """
    monkeypatch.setattr(on_cluster, "threads_of_a_task", lambda *_: 4)  # CPUs of the cluster
    search = {"lr": [5e-3, 1e-9, 1e-10], "seeds": [1, 2], "halving": True}
    run = job("search", data, export, tmp_path / "head", epochs=4, search=search)
    (result,) = finetune_all([run], ConsoleProgress(Console()))
    assert result.kept["lr"] == 5e-3
    errors = {(each["lr"], each["seed"]): each["error"] for each in result.trials}
    assert set(errors) == {(5e-3, 1), (1e-9, 1), (1e-10, 1), (5e-3, 2)}
    stopped = [error for error in errors.values() if error]
    assert stopped
    assert all(error.startswith("stopped after epoch") for error in stopped)
    assert result.deviation is not None
    lines = Lines()
    finetune_all([run], lines)
    assert lines == [f"search: {tmp_path / 'head'} is up to date"]
