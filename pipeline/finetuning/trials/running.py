"""The trials of fine-tunings: which there are, how they run, and what became of them."""

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.cluster.calls import Runner, Work
from pipeline.errors import NezhaError
from pipeline.files.disk import Disk
from pipeline.files.hashing import hash_of
from pipeline.finetuning.examination import Examined
from pipeline.finetuning.trials import search
from pipeline.finetuning.trials.search import Outcome
from pipeline.finetuning.trials.trial import Trial, TrialResult, run_trial_of
from pipeline.progress import Say
from pipeline.settings.finetuning import FinetuneSettings


class StoppedEarly(NezhaError):
    """A trial of a search that was stopped because others were better."""


class Finetuning(NamedTuple):
    """One fine-tuning to run: all trials of its grid."""

    name: str
    """Is put before its progress lines."""
    settings: FinetuneSettings
    export: str
    output: Path
    """Folder of the head."""
    seed: int


class Planned(NamedTuple):
    """A fine-tuning whose data are examined."""

    job: Finetuning
    examined: Examined
    trials: list[Trial]
    fingerprint: str
    """Of its result."""


Found = dict[Path, TrialResult | NezhaError]
"""What became of trials, by their folders."""


def trials_of(
    job: Finetuning, examined: Examined, folder: Path, with_head: bool = True
) -> list[Trial]:
    """The trials of a job; their results have folders in `folder`."""
    trials = []
    points = list(search.grid(job.settings, job.seed))
    for point, seed in points:
        key = hash_of([examined.fingerprint, point.lr, point.batch, seed])
        named = f"{job.name} lr {point.lr:g} batch {point.batch} seed {seed}"
        trials.append(
            Trial(
                name=named if len(points) > 1 else job.name,
                settings=point,
                export=job.export,
                seed=seed,
                folder=folder / key[:20],
                with_head=with_head,
            )
        )
    return trials


def run_trials(run: Runner, trials: Sequence[Trial]) -> Found:
    """The result of each trial, or why it failed, by its folder. Equal trials run once."""
    different = {trial.folder: trial for trial in trials}
    for trial in different.values():
        for remnant in trial.folder.parent.glob(f".{trial.folder.name}.*"):
            shutil.rmtree(remnant, ignore_errors=True)
    works = [work_of(trial) for trial in different.values()]
    return dict(zip(different, run(works), strict=True))


def outcomes_of(trials: Sequence[Trial], found: Found) -> list[Outcome]:
    """What became of each trial."""
    outcomes = []
    for trial in trials:
        each, lr, batch = found[trial.folder], trial.settings.lr, trial.settings.batch
        if isinstance(each, NezhaError):
            outcomes.append(Outcome(lr, batch, trial.seed, error=str(each)))
        else:
            outcomes.append(Outcome(lr, batch, trial.seed, each.dev, each.test))
    return outcomes


def failures(trials: Sequence[Trial], found: Found) -> list[NezhaError]:
    """Why trials failed, each with the trial's name; those that were stopped early did not."""
    return [
        type(error)(f"{trial.name}: {error}")
        for trial in trials
        if isinstance(error := found[trial.folder], NezhaError)
        and not isinstance(error, StoppedEarly)
    ]


def seconds_of(results: Iterable[TrialResult | NezhaError]) -> float:
    """Computing time of the trials that finished, one after another."""
    return round(sum(each.seconds for each in results if isinstance(each, TrialResult)), 1)


def work_of(trial: Trial, again: bool = False) -> Work:
    """The call that computes a trial; `again`: also if its result is there."""
    settings = trial.settings
    return Work(
        trial.name, "fine-tunings", _run_trial, (trial, again), settings.gpus, settings.workers
    )


def _run_trial(trial: Trial, again: bool, say: Say, disk: Disk) -> TrialResult:
    return run_trial_of(disk, trial, say, again=again)
