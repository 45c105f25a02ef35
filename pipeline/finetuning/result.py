"""The result of a fine-tuning: the best point, and the head that is kept in the output folder."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.cluster.calls import Runner
from pipeline.errors import ExportError, NezhaError
from pipeline.files.storage import write_whole
from pipeline.finetuning.examples.jsonl import to_json
from pipeline.finetuning.prediction.head_folder import PREDICTIONS, RESULTS, read_results
from pipeline.finetuning.tasks import TASKS
from pipeline.finetuning.trials import search
from pipeline.finetuning.trials.running import (
    Finetuning,
    Found,
    Planned,
    failures,
    outcomes_of,
    seconds_of,
    work_of,
)
from pipeline.finetuning.trials.search import Outcome
from pipeline.finetuning.trials.trial import HEAD, Trial, TrialResult
from pipeline.progress import Say


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


def known_result(planned: Planned, failed: Sequence[str] = ()) -> FinetuneResult | None:
    """The result in the output folder, if it has the fingerprint of what is planned.

    The head, its export and its data may have been moved since: its file then names the new places.

    Args:
        failed: why trials failed, which must be the same; none did if not given.
    """
    output = planned.job.output
    try:
        found = read_results(output)
    except ExportError:
        return None
    if (found["fingerprint"], found.get("failed")) != (planned.fingerprint, list(failed)):
        return None
    trial = planned.trials[0].folder.with_name(Path(found["trial_folder"]).name)
    if found != (now := found | _places(planned.job, trial)):
        found = now
        write_whole(output / RESULTS, to_json(found, indent=2).encode())
    return FinetuneResult(**{name: found[name] for name in FinetuneResult._fields})


def result_of_before(planned: Planned) -> str:
    """What the output folder holds, where `known_result` finds no result."""
    try:
        fingerprint = read_results(planned.job.output)["fingerprint"]
    except ExportError:
        fingerprint = ""
    if fingerprint == planned.fingerprint:
        return "a result without the trials that failed, which are tried again"
    return "the result of other settings or data, which will be replaced"


def conclude(run: Runner, planned: Planned, found: Found, say: Say) -> FinetuneResult:
    """Choose the point and the head, and move the head to the output folder."""
    job, trials = planned.job, planned.trials
    metric, outcomes = TASKS[job.settings.task].metric, outcomes_of(trials, found)
    failed = failures(trials, found)
    best = search.best_point(_comparable(planned, outcomes), metric)
    if not best:
        raise type(failed[0])("\n".join(map(str, failed)))
    for error in failed:
        say(f"{job.name}: failed: {error}")
    reasons = [str(error) for error in failed]
    if known := known_result(planned, reasons):
        return known
    chosen = search.kept(best, metric)
    trial = trials[outcomes.index(chosen)]
    found[trial.folder] = result = _with_head(run, trial, found)
    scored = search.score(best, metric)
    rule = f"median of {len(best)} seeds by dev {metric}" if len(best) > 1 else "the only seed"
    final = FinetuneResult(
        metric=metric,
        score=scored[1].mean if scored else None,
        deviation=scored[1].deviation if scored else None,
        trivial=planned.examined.trivial,
        kept={"lr": chosen.lr, "batch": chosen.batch, "seed": chosen.seed, "rule": rule},
        dev=result.dev,
        test=result.test,
        epochs=result.epochs,
        trials=[outcome._asdict() for outcome in outcomes],
        seconds=seconds_of(found[trial.folder] for trial in trials),
        folder=str(job.output),
    )
    _move_head(planned, trial, final, reasons)
    for other in trials:
        shutil.rmtree(other.folder / HEAD, ignore_errors=True)
    if planned.examined.predicts:
        target = TASKS[job.settings.task].target
        where = job.output / PREDICTIONS
        say(f"{job.name}: the test examples have no {target}: predictions in {where}")
    return final


def _comparable(planned: Planned, outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
    """Those of the points that all seeds tried; after halving it is the first seed's choice."""
    if not planned.job.settings.search.halving:
        return outcomes
    seeds = {trial.seed for trial in planned.trials}
    return [o for o in outcomes if sum(o.point == p.point for p in outcomes) == len(seeds)]


def _with_head(run: Runner, trial: Trial, found: Found) -> TrialResult:
    """The trial's result. The trial runs again if another job has moved its head away.

    Raises what the trial raises.
    """
    result = found[trial.folder]
    if not (trial.folder / HEAD).exists():
        (result,) = run([work_of(trial, again=True)])
    if isinstance(result, NezhaError):
        raise result
    return result


def _places(job: Finetuning, trial: Path) -> dict[str, Any]:
    """Where the head of a job is, and what it was made from and judged on."""
    return {
        "data": job.settings.data.model_dump(mode="json"),
        "export": job.export,
        "folder": str(job.output),
        "trial_folder": str(trial),
    }


def _move_head(
    planned: Planned, trial: Trial, final: FinetuneResult, failed: Sequence[str]
) -> None:
    """Write what is known of the head into its folder, and move that to the output folder."""
    job, examined, head = planned.job, planned.examined, trial.folder / HEAD
    facts = json.loads((head / RESULTS).read_text("utf-8"))
    facts |= {
        "notes": examined.notes,
        "judged_on": examined.judged_on,
        **final._asdict(),
        "from_scratch": job.settings.from_scratch,
        "settings": job.settings.model_dump(mode="json"),
        "fingerprint": planned.fingerprint,
        "failed": failed,
        **_places(job, trial.folder),
    }
    write_whole(head / RESULTS, to_json(facts, indent=2).encode())
    shutil.rmtree(job.output, ignore_errors=True)
    head.rename(job.output)
