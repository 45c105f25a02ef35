"""Fine-tuning: an export and task data become a scored Hugging Face folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.cluster.calls import Runner, Work
from pipeline.errors import ConfigError, ExportError, NezhaError
from pipeline.files.disk import Disk, fetch_named
from pipeline.files.hashing import hash_of
from pipeline.finetuning.checks import check
from pipeline.finetuning.examination import Examined, examine
from pipeline.finetuning.examples.jsonl import to_json
from pipeline.finetuning.prediction.head_folder import PREDICTIONS, RESULTS, read_results
from pipeline.finetuning.tasks import TASKS
from pipeline.finetuning.trials import search
from pipeline.finetuning.trials.search import Outcome
from pipeline.finetuning.trials.trial import HEAD, Trial, TrialResult, run_trial_of
from pipeline.progress import Progress, Say
from pipeline.settings.finetuning import FinetuneSettings

TRIALS = ".trials"
"""Folder, beside the heads, of the results of all trials."""


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
    from_scratch: bool = False

    @property
    def scratch(self) -> bool:
        """Whether it starts from random weights."""
        return self.from_scratch or self.settings.from_scratch


Found = dict[Path, TrialResult | NezhaError]
"""What became of trials, by their folders."""
Halve = Callable[[Sequence[Trial], str], Found]
"""Runs trials of one seed, and stops those early whose dev score (named) is low."""


class FinetuneResult(NamedTuple):
    """A fine-tuned head. Where the metric allows it, scores lie between 0 and 1."""

    metric: str
    """The score that chose the best epoch: accuracy, f1 or spearman."""
    score: float | None
    """Its mean over the seeds, on test; on dev where test has no targets; None without either."""
    deviation: float | None
    """Its standard deviation over the seeds; None for one seed."""
    trivial: dict[str, dict[str, float]]
    """Scores on dev and test of answers that ignore the input."""
    kept: dict[str, Any]
    """`lr`, `batch` and `seed` of the trial whose head is kept, and `rule`: why that one."""
    dev: dict[str, float]
    """Scores of the head that is kept."""
    test: dict[str, float]
    epochs: list[dict[str, float]]
    """`loss` and dev scores of each epoch of the head that is kept."""
    trials: list[dict[str, Any]]
    """lr, batch, seed, best dev scores, test scores and error of each trial."""
    seconds: float
    """Computing time of all trials, one after another."""
    folder: str

    @property
    def scored_on(self) -> str:
        """The set whose score over the seeds is `score`."""
        return "test" if self.test else "dev"


def finetune_with(
    run: Runner,
    jobs: Sequence[Finetuning],
    progress: Progress,
    halve: Halve,
) -> list[FinetuneResult]:
    """Train every point of each grid with all seeds, and keep the median head of the best point.

    The best point has the highest mean score on dev; its score on test is the mean over its seeds.
    A trial that failed is named in the result and does not end the others. Finished trials are not
    repeated, and an output folder that the same data, export and settings made is kept as it is.
    It appears whole or not at all.

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
    results: dict[int, FinetuneResult] = {}
    trials: dict[int, list[Trial]] = {}
    fingerprints: dict[int, str] = {}
    for number, (job, facts) in enumerate(zip(jobs, examined, strict=True)):
        own = trials_of(job, facts, job.output.parent / TRIALS)
        # How a search ends shapes its result, and no trial's.
        halving = job.settings.search.halving
        fingerprints[number] = hash_of([halving, *(trial.folder.name for trial in own)])
        if known := _known_result(job.output, fingerprints[number]):
            progress.say(f"{job.name}: {job.output} is up to date")
            results[number] = known
            continue
        if job.output.exists():
            if not (job.output / RESULTS).exists() and not _is_empty(job.output):
                raise ConfigError(
                    f"{job.output} holds no head (no {RESULTS}) and would be replaced: move it, or "
                    "choose another name for the head"
                )
            held = f"{job.output} holds the result of other settings or data"
            progress.say(f"{job.name}: {held}, which will be replaced")
        for note in facts.notes:
            progress.say(f"{job.name}: {note}")
        sizes = ", ".join(f"{size:,} {name}" for name, size in facts.sizes.items())
        start = "random weights" if job.scratch else job.export
        progress.update(f"{job.settings.task} from {start}: {sizes} examples", job.name)
        trials[number] = own
    found: Found = {}
    for number, own in trials.items():
        if jobs[number].settings.search.halving:
            trials[number] = _halved(jobs[number], own, found, halve)
    rest = [trial for own in trials.values() for trial in own if trial.folder not in found]
    found |= run_trials(run, rest)
    for number, own in trials.items():
        given = jobs[number], examined[number], own, found, fingerprints[number]
        results[number] = _conclude(run, *given, progress.say)
    return [results[number] for number in range(len(jobs))]


def examine_with(run: Runner, jobs: Sequence[Finetuning]) -> list[Examined]:
    """What is known of each job before anything is trained.

    Raises TaskError or ExportError, with the mistakes of all jobs.
    """
    works = [
        Work(job.name, "checks of data", _examine, (job.settings, job.export, job.scratch))
        for job in jobs
    ]
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
                from_scratch=job.scratch,
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
    works = [_work(trial) for trial in different.values()]
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


def _halved(job: Finetuning, trials: Sequence[Trial], found: Found, halve: Halve) -> list[Trial]:
    """Search with the first seed alone; returns its trials, and the other seeds of the best point.

    `found` takes the results of the search.
    """
    metric = TASKS[job.settings.task].metric
    first = [trial for trial in trials if trial.seed == trials[0].seed]
    found |= halve(first, metric)
    best = search.best_point(outcomes_of(first, found), metric)
    points = {outcome.point for outcome in best}
    others = [t for t in trials if (t.settings.lr, t.settings.batch) in points and t not in first]
    return [*first, *others]


def _conclude(
    run: Runner,
    job: Finetuning,
    examined: Examined,
    trials: Sequence[Trial],
    found: Found,
    fingerprint: str,
    say: Say,
) -> FinetuneResult:
    """Choose the point and the head, and move the head to the output folder."""
    metric, outcomes = TASKS[job.settings.task].metric, outcomes_of(trials, found)
    failed = failures(trials, found)
    best = search.best_point(_comparable(job, trials, outcomes), metric)
    if not best:
        raise type(failed[0])("\n".join(map(str, failed)))
    for error in failed:
        say(f"{job.name}: failed: {error}")
    chosen = search.kept(best, metric)
    trial = trials[outcomes.index(chosen)]
    found[trial.folder] = result = _with_head(run, trial, found)
    scored = search.score(best, metric)
    rule = f"median of {len(best)} seeds by dev {metric}" if len(best) > 1 else "the only seed"
    final = FinetuneResult(
        metric=metric,
        score=scored[1].mean if scored else None,
        deviation=scored[1].deviation if scored else None,
        trivial=examined.trivial,
        kept={"lr": chosen.lr, "batch": chosen.batch, "seed": chosen.seed, "rule": rule},
        dev=result.dev,
        test=result.test,
        epochs=result.epochs,
        trials=[outcome._asdict() for outcome in outcomes],
        seconds=round(
            sum(r.seconds for t in trials if isinstance(r := found[t.folder], TrialResult)), 1
        ),
        folder=str(job.output),
    )
    _move_head(job, examined, trial, final, "" if failed else fingerprint)
    for other in trials:
        shutil.rmtree(other.folder / HEAD, ignore_errors=True)
    if examined.predicts:
        target = TASKS[job.settings.task].target
        where = job.output / PREDICTIONS
        say(f"{job.name}: the test examples have no {target}: predictions in {where}")
    return final


def _comparable(
    job: Finetuning, trials: Sequence[Trial], outcomes: Sequence[Outcome]
) -> Sequence[Outcome]:
    """Those of the points that all seeds tried; after halving it is the first seed's choice."""
    if not job.settings.search.halving:
        return outcomes
    seeds = {trial.seed for trial in trials}
    return [o for o in outcomes if sum(o.point == p.point for p in outcomes) == len(seeds)]


def _with_head(run: Runner, trial: Trial, found: Found) -> TrialResult:
    """The trial's result; the trial runs again if its head was moved away as that of another job.

    Raises what the trial raises.
    """
    result = found[trial.folder]
    if not (trial.folder / HEAD).exists():
        (result,) = run([_work(trial, again=True)])
    if isinstance(result, NezhaError):
        raise result
    return result


def _move_head(
    job: Finetuning, examined: Examined, trial: Trial, final: FinetuneResult, fingerprint: str
) -> None:
    """Write what is known of the head into its folder, and move that to the output folder."""
    head = trial.folder / HEAD
    facts = json.loads((head / RESULTS).read_text("utf-8"))
    facts |= {
        "data": job.settings.data.model_dump(mode="json"),
        "notes": examined.notes,
        "judged_on": examined.judged_on,
        **final._asdict(),
        "export": job.export,
        "from_scratch": job.scratch,
        "settings": job.settings.model_dump(mode="json"),
        "trial_folder": str(trial.folder),
        "fingerprint": fingerprint,
    }
    (head / RESULTS).write_text(to_json(facts, indent=2), "utf-8")
    shutil.rmtree(job.output, ignore_errors=True)
    head.rename(job.output)


def _work(trial: Trial, again: bool = False) -> Work:
    settings = trial.settings
    return Work(
        trial.name, "fine-tunings", _run_trial, (trial, again), settings.gpus, settings.workers
    )


def _run_trial(trial: Trial, again: bool, say: Say, disk: Disk) -> TrialResult:
    return run_trial_of(disk, trial, say, again=again)


def _examine(
    settings: FinetuneSettings, export: str, scratch: bool, say: Say, disk: Disk
) -> Examined:
    return examine(settings, fetch_named(disk, export), scratch)


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _known_result(output: Path, fingerprint: str) -> FinetuneResult | None:
    """The result in the folder, if it has this fingerprint."""
    try:
        found = read_results(output)
    except ExportError:
        return None
    if found["fingerprint"] != fingerprint:
        return None
    return FinetuneResult(**{name: found[name] for name in FinetuneResult._fields})
