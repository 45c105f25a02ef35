"""Fine-tuning: an export and task data become a scored Hugging Face folder."""

from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.cluster.calls import Runner, Work
from pipeline.errors import ConfigError, NezhaError
from pipeline.files.disk import Disk, fetch_named
from pipeline.files.hashing import hash_of
from pipeline.finetuning.checks import check
from pipeline.finetuning.examination import Examined, examine
from pipeline.finetuning.prediction.head_folder import RESULTS
from pipeline.finetuning.result import FinetuneResult, conclude, known_result, result_of_before
from pipeline.finetuning.tasks import TASKS
from pipeline.finetuning.trials import search
from pipeline.finetuning.trials.running import (
    Finetuning,
    Found,
    Planned,
    outcomes_of,
    run_trials,
    trials_of,
)
from pipeline.finetuning.trials.trial import Trial
from pipeline.progress import Progress, Say
from pipeline.settings.finetuning import FinetuneSettings

TRIALS = ".trials"
"""Folder, beside the heads, of the results of all trials."""
Halve = Callable[[Sequence[Trial], str], Found]
"""Takes trials of one seed and the name of a dev score; runs them, and stops those early whose dev
score is low."""


def finetune_with(
    run: Runner,
    jobs: Sequence[Finetuning],
    progress: Progress,
    halve: Halve,
) -> list[FinetuneResult]:
    """Train every point of each grid with all seeds, and keep the median head of the best point.

    The best point has the highest mean score on dev; its score on test is the mean over its seeds.
    A trial that failed is named in the result and does not end the others; it is tried again by the
    next command. Finished trials are not repeated, and an output folder that the same data, export,
    settings and trials made is kept as it is. It appears whole or not at all.

    Raises:
        ConfigError: a setting is missing or contradicts another, or an output folder holds what is
            no head.
        TaskError: data are missing or malformed; one message lists every line, before anything is
            trained.
        ExportError: an export is not a usable Hugging Face folder.
        NezhaError: what a trial raised, if no point of a grid has a score for each seed.
    """
    for job in jobs:
        check(job.settings)
    examined = examine_with(run, jobs)
    planned = [_plan(job, facts) for job, facts in zip(jobs, examined, strict=True)]
    known = [known_result(each) for each in planned]
    waiting = []
    for each, result in zip(planned, known, strict=True):
        if result:
            progress.say(f"{each.job.name}: {each.job.output} is up to date")
        else:
            _announce(each, progress)
            waiting.append(each)
    found: Found = {}
    for place, each in enumerate(waiting):
        if each.job.settings.search.halving:
            waiting[place] = each._replace(trials=_halved(each, found, halve))
    rest = [trial for each in waiting for trial in each.trials if trial.folder not in found]
    found |= run_trials(run, rest)
    new = (conclude(run, each, found, progress.say) for each in waiting)
    return [result or next(new) for result in known]


def _plan(job: Finetuning, examined: Examined) -> Planned:
    trials = trials_of(job, examined, job.output.parent / TRIALS)
    # How a search ends shapes its result, and no trial's.
    names = [job.settings.search.halving, *(trial.folder.name for trial in trials)]
    return Planned(job, examined, trials, hash_of(names))


def _announce(planned: Planned, progress: Progress) -> None:
    """Tell what a fine-tuning begins with.

    Raises ConfigError where it would replace what is no head.
    """
    job = planned.job
    if job.output.exists():
        if not (job.output / RESULTS).exists() and not _is_empty(job.output):
            raise ConfigError(
                f"{job.output} holds no head (no {RESULTS}) and would be replaced: move it, or "
                "choose another name for the head"
            )
        progress.say(f"{job.name}: {job.output} holds {result_of_before(planned)}")
    for note in planned.examined.notes:
        progress.say(f"{job.name}: {note}")
    sizes = ", ".join(f"{size:,} {name}" for name, size in planned.examined.sizes.items())
    start = "random weights" if job.settings.from_scratch else job.export
    progress.update(f"{job.settings.task} from {start}: {sizes} examples", job.name)


def examine_with(run: Runner, jobs: Sequence[Finetuning]) -> list[Examined]:
    """What is known of each job before anything is trained.

    Raises TaskError or ExportError, with the mistakes of all jobs.
    """
    works = [Work(job.name, "checks of data", _examine, (job.settings, job.export)) for job in jobs]
    found = run(works)
    errors = [
        (job.name, each)
        for job, each in zip(jobs, found, strict=True)
        if isinstance(each, NezhaError)
    ]
    if errors:
        lines = [f"{name}: {error}" for name, error in errors]
        raise type(errors[0][1])("\n".join(lines))
    return found


def _halved(planned: Planned, found: Found, halve: Halve) -> list[Trial]:
    """Search with the first seed alone; returns its trials, and the other seeds of the best point.

    `found` takes the results of the search.
    """
    trials, metric = planned.trials, TASKS[planned.job.settings.task].metric
    first = [trial for trial in trials if trial.seed == trials[0].seed]
    found |= halve(first, metric)
    best = search.best_point(outcomes_of(first, found), metric)
    points = {outcome.point for outcome in best}
    others = [t for t in trials if (t.settings.lr, t.settings.batch) in points and t not in first]
    return [*first, *others]


def _examine(settings: FinetuneSettings, export: str, say: Say, disk: Disk) -> Examined:
    return examine(settings, fetch_named(disk, export))


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())
