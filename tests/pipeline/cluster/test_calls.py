"""Calls as Ray tasks, of one worker and of groups."""

import errno
import os
import time

import pytest
import torch

from pipeline.cluster.calls import Work, WorkerDied, cluster_runner, threads_of_a_task
from pipeline.errors import TaskError, TrainingError
from pipeline.finetuning.workers import Workers
from tests.reported import Lines


@pytest.mark.parametrize(
    ("tasks", "cpus_by_node", "threads"),
    [(4, [2], 1), (1, [2], 2), (4, [8], 2), (2, [4, 4, 4, 4], 4), (9, [2], 1), (3, [16], 5)],
)
def test_tasks_share_the_cpus_and_each_fits_on_a_node(tasks, cpus_by_node, threads):
    assert threads_of_a_task(tasks, cpus_by_node) == threads


def test_workers_of_a_group_fit_on_the_nodes_together():
    assert threads_of_a_task(4, [3, 3, 3], 4) == 1  # with 2 CPUs each, a node would hold one
    assert threads_of_a_task(4, [8], 2) == 2
    assert threads_of_a_task(3, [1, 1], 3) == 1


def end_at_worker_1(how, say, disk):
    """Worker 1 ends; the others wait for it."""
    say("started")
    workers = Workers.of_process()
    if workers.rank == 1 and how == "die":
        os._exit(1)
    if workers.rank == 1 and how == "fail":
        raise TaskError("a mistake that worker 1 sees")
    if how == "hang":  # nobody calls, so that no connection breaks
        time.sleep(0 if workers.rank == 1 else 600)
        os._exit(1)
    return workers.collect([workers.rank])


@pytest.mark.slow
@pytest.mark.ray
def test_the_failure_of_a_worker_ends_its_group_alone(ray_cluster, tmp_path):
    hows = ("die", "fail", "hang", "well")
    works = [Work(how, "calls", end_at_worker_1, (how,), workers=2) for how in hows]
    lines = Lines()
    died, failed, hung, well = cluster_runner(lines, tmp_path)(works)
    assert type(died) is type(hung) is WorkerDied
    assert str(died).startswith("worker 1 of 2 died")
    assert str(hung).startswith("worker 1 of 2 died")
    assert (type(failed), str(failed)) == (TaskError, "a mistake that worker 1 sees")
    assert well == [0, 1]
    assert lines.count("well: started") == 1
    # What the groups held is free again.
    assert (
        cluster_runner(Lines(), tmp_path)([Work("next", "calls", look_around, ())])[0]["threads"]
        == 4
    )


def look_around(say, disk):
    return {
        "threads": torch.get_num_threads(),
        "pid": os.getpid(),
        "policy": os.environ["OMP_WAIT_POLICY"],
    }


def die(say, disk):
    say("about to die")
    os._exit(1)


def die_once(folder, say, disk):
    """Says more before it dies than when it starts again."""
    first = not (folder / "begun").exists()
    (folder / "begun").touch()
    for number in range(9 if first else 2):
        say(f"line {number}")
        time.sleep(0.1)
    if first:
        os._exit(1)
    return {"well": True}


def go_on(say, disk):
    pass


def fail(say, disk):
    raise RuntimeError("CUDA out of memory")


def meet_a_full_disk(say, disk):
    raise OSError(errno.ENOSPC, "No space left on device", "trial/head")


@pytest.mark.ray
def test_a_task_has_its_threads_and_a_dead_worker_loses_no_other(ray_cluster, tmp_path):
    """What a worker process sees, in place of a fine-tuning."""
    works = [
        Work("looks", "calls", look_around, ()),
        Work("dies", "calls", die, ()),
        Work("fails", "calls", fail, ()),
        Work("is full", "calls", meet_a_full_disk, ()),
    ]
    works.append(Work("once", "calls", die_once, (tmp_path,)))
    lines = Lines()
    facts, error, other, full, late = cluster_runner(lines, tmp_path)(works)
    assert late == {"well": True}
    again = [line for line in lines if line.startswith("once: ") and "it starts again" in line]
    assert [line.rpartition(";")[2] for line in again] == [" it starts again (1 of 3)"]
    assert sum(line.startswith("dies: ") and "it starts again" in line for line in lines) == 3
    assert (type(other), str(other)) == (TrainingError, "RuntimeError: CUDA out of memory")
    assert (type(full), str(full)) == (
        TrainingError,
        "[Errno 28] No space left on device: 'trial/head'",
    )
    assert facts["threads"] == 1
    assert facts["pid"] != os.getpid()
    assert facts["policy"] == "PASSIVE"
    assert type(error) is WorkerDied
    assert "the worker process died" in str(error)


@pytest.mark.ray
def test_a_failure_is_told_when_it_happens(ray_cluster, tmp_path):
    """That of a call alone is told once, by who made it."""
    told = []
    for others in ([], [Work("goes on", "calls", go_on, ())]):
        told.append(Lines())
        works = [Work("fails", "calls", fail, ()), *others]
        assert (
            str(cluster_runner(told[-1], tmp_path)(works)[0]) == "RuntimeError: CUDA out of memory"
        )
    assert [[line for line in lines if "failed" in line] for lines in told] == [
        [],
        ["fails: failed: RuntimeError: CUDA out of memory"],
    ]
