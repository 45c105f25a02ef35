"""Fine-tunings as Ray tasks."""

import os

import pytest
import torch

from pipeline.errors import TaskError, TrainingError
from pipeline.finetuning.finetune import Finetuning, Work, finetune
from pipeline.finetuning.trials.on_cluster import cluster_runner, finetune_all, threads_of_a_task
from pipeline.settings.finetuning import FinetuneSettings


def job(name, data, export, output, seed=1, **more):
    values = {"task": "ner", "lr": 5e-3, "batch": 16, "epochs": 1, "data": data["ner"]} | more
    return Finetuning(name, FinetuneSettings.model_validate(values), str(export), output, seed)


@pytest.mark.parametrize(
    ("tasks", "cpus_by_node", "threads"),
    [(4, [2], 1), (1, [2], 2), (4, [8], 2), (2, [4, 4, 4, 4], 4), (9, [2], 1), (3, [16], 5)],
)
def test_tasks_share_the_cpus_and_each_fits_on_a_node(tasks, cpus_by_node, threads):
    assert threads_of_a_task(tasks, cpus_by_node) == threads


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
    lines = []
    results = finetune_all(runs, lambda name, line: lines.append((name, line)))
    assert [result.folder for result in results] == [str(tmp_path / "a"), str(tmp_path / "b")]
    for name in "ab":
        assert [line for whose, line in lines if whose == name][-1].startswith("epoch 1/1")
    assert results[0].test["f1"] > 0.5
    before = torch.get_num_threads()
    torch.set_num_threads(threads_of_a_task(2, [4]))
    try:
        here = finetune(runs[1].settings, str(export), tmp_path / "here", seed=2)
    finally:
        torch.set_num_threads(before)
    assert here.epochs == results[1].epochs


@pytest.mark.ray
def test_a_mistake_is_told_as_it_is_before_anything_is_trained(ray_cluster, export, data, tmp_path):
    bad = {"ner": data["ner"] | {"dev": data["pair"]["dev"]}}
    runs = [
        job("long", data, export, tmp_path / "long", epochs=1000),
        job("bad", bad, export, tmp_path / "bad"),
    ]
    with pytest.raises(
        TaskError, match=r"(?s)^bad: .*pair-dev\.jsonl, line 1: no key 'tokens'"
    ) as told:
        finetune_all(runs, lambda name, line: None)
    assert type(told.value) is TaskError
    assert told.value.__cause__ is None
    assert not (tmp_path / "long").exists()


def look_around(show):
    return {
        "threads": torch.get_num_threads(),
        "pid": os.getpid(),
        "policy": os.environ["OMP_WAIT_POLICY"],
    }


def die(show):
    show("about to die")
    os._exit(1)


def fail(show):
    raise RuntimeError("CUDA out of memory")


@pytest.mark.ray
def test_a_task_has_its_threads_and_a_dead_worker_loses_no_other(ray_cluster):
    """What a worker process sees, in place of a fine-tuning."""
    works = [Work("looks", look_around, ()), Work("dies", die, ()), Work("fails", fail, ())]
    facts, error, other = cluster_runner(lambda name, line: None)(works)
    assert (type(other), str(other)) == (TrainingError, "RuntimeError: CUDA out of memory")
    assert facts["threads"] == 1
    assert facts["pid"] != os.getpid()
    assert facts["policy"] == "PASSIVE"
    assert type(error) is TrainingError
    assert "the worker process died" in str(error)


@pytest.mark.long
@pytest.mark.ray
def test_halving_stops_bad_trials_and_gives_the_best_point_all_seeds(
    ray_cluster, export, data, tmp_path
):
    """One trial at a time, the best first: those after it are worse and end early."""
    search = {"lr": [5e-3, 1e-9, 1e-10], "seeds": [1, 2], "halving": True}
    run = job("search", data, export, tmp_path / "head", epochs=4, search=search)
    (result,) = finetune_all([run], lambda name, line: None)
    assert result.kept["lr"] == 5e-3
    errors = {(each["lr"], each["seed"]): each["error"] for each in result.trials}
    assert set(errors) == {(5e-3, 1), (1e-9, 1), (1e-10, 1), (5e-3, 2)}
    stopped = [error for error in errors.values() if error]
    assert stopped
    assert all(error.startswith("stopped after epoch") for error in stopped)
    assert result.deviation is not None
    lines = []
    finetune_all([run], lambda name, line: lines.append(line))
    assert lines == [f"{tmp_path / 'head'} is up to date"]
