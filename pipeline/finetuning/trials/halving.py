"""Asynchronous successive halving of trials by Ray Tune (ASHA, arXiv 1810.05934)."""

import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from pipeline.cluster import ray_cluster, remote_disk, remote_files
from pipeline.cpu import use_threads
from pipeline.errors import NezhaError, TrainingError
from pipeline.files.storage import write_whole
from pipeline.finetuning.trials.running import Found, StoppedEarly
from pipeline.finetuning.trials.trial import Trial, TrialResult, read_result, run_trial_of
from pipeline.progress import Progress

REDUCTION = 2
"""After 1, 2, 4 … epochs, a trial goes on if it is in the better half of those that came so far."""


def halve(
    trials: Sequence[Trial],
    metric: str,
    threads: int,
    progress: Progress,
    offer: remote_disk.Offer,
) -> Found:
    """The result of each trial, by its folder, or a `StoppedEarly`, or why it failed.

    Trials that an earlier command finished or stopped are not repeated.

    Args:
        metric: dev score that decides.
        threads: CPUs of a trial without a GPU.
        offer: of the folder that holds the trials.
    """
    found: Found = {}
    for trial in trials:
        known = read_result(trial.folder) or _read_stopped(trial.folder, metric)
        if known is not None:
            found[trial.folder] = known
    waiting = [trial for trial in trials if trial.folder not in found]
    if waiting:
        found |= _tune(waiting, metric, threads, progress, offer)
    return found


def _tune(
    trials: Sequence[Trial],
    metric: str,
    threads: int,
    progress: Progress,
    offer: remote_disk.Offer,
) -> Found:
    # Tune's own tables would hide our progress lines; why a trial failed stands in one of ours.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    class Lines(tune.Callback):
        """Shows the score of each epoch."""

        def on_trial_result(
            self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any
        ) -> None:
            epoch = result["training_iteration"]
            name = named[trial.config["number"]]
            progress.update(f"epoch {epoch} · dev {metric} {result[metric]:.4f}", name)

        def __reduce__(self) -> tuple[Any, ...]:
            """Tune saves its callbacks, and a console can't be saved."""
            return tune.Callback, ()

    ray_cluster.connect()
    named = [trial.name for trial in trials]
    gpus = ray_cluster.gpus_of_a_task(trials[0].settings.gpus)
    cpus = 1 if gpus else threads
    # Another command may search for another head of this run at the same time.
    storage = trials[0].folder.with_name(f".{trials[0].folder.name}.tune")
    shutil.rmtree(storage, ignore_errors=True)
    results = tune.Tuner(
        tune.with_resources(_trainable(trials, cpus, offer), {"cpu": cpus, "gpu": gpus}),
        param_space={"number": tune.grid_search(list(range(len(trials))))},
        tune_config=tune.TuneConfig(
            metric=metric,
            mode="max",
            scheduler=ASHAScheduler(
                max_t=trials[0].settings.epochs, grace_period=1, reduction_factor=REDUCTION
            ),
        ),
        run_config=tune.RunConfig(
            storage_path=str(storage), name="halving", verbose=0, callbacks=[Lines()]
        ),
    ).fit()
    found: Found = {}
    # In the order of the numbers; a result of a trial that fails early does not have its own.
    for trial, result in zip(trials, results, strict=True):
        found[trial.folder] = _outcome(trial, result, metric)
    shutil.rmtree(storage, ignore_errors=True)
    return found


def _trainable(
    trials: Sequence[Trial], cpus: int, offer: remote_disk.Offer
) -> Callable[[Mapping[str, int]], None]:
    """What Tune calls in a process of its own: it runs the trial of a number."""

    def train(config: Mapping[str, int]) -> None:
        from ray import tune

        use_threads(cpus)
        trial, epochs = trials[config["number"]], count(1)

        def report(scores: Mapping[str, float]) -> None:
            # Tune may end the process at a report, and after the last epoch the result is saved.
            if next(epochs) < trial.settings.epochs:
                tune.report(dict(scores))

        with remote_files.files_of(offer) as disk:
            run_trial_of(disk, trial, lambda line: None, report)

    return train


def _outcome(trial: Trial, result: Any, metric: str) -> TrialResult | NezhaError:
    """What became of a trial that Tune has ended; one that was stopped early is written down."""
    done = read_result(trial.folder)
    if done is not None:
        return done
    if result.error is not None:
        cause = getattr(result.error, "cause", result.error)
        kind = type(cause) if isinstance(cause, NezhaError) else TrainingError
        return kind(str(cause))
    stopped = {"epoch": result.metrics["training_iteration"], metric: result.metrics[metric]}
    write_whole(_stopped_file(trial.folder), f"{json.dumps(stopped)}\n".encode())
    return _stopped(stopped, metric)


def _stopped(values: Mapping[str, Any], metric: str) -> StoppedEarly:
    return StoppedEarly(
        f"stopped after epoch {values['epoch']}, at dev {metric} {values[metric]:.4f}"
    )


def _stopped_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.stopped.json")


def _read_stopped(folder: Path, metric: str) -> StoppedEarly | None:
    file = _stopped_file(folder)
    return _stopped(json.loads(file.read_text("utf-8")), metric) if file.exists() else None
