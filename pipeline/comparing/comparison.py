"""What trials of several checkpoints over several tasks say: scores, differences, cost."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, NamedTuple

import numpy as np
import yaml

from pipeline.comparing.significance import Difference, compare
from pipeline.finetuning.examination import Examined
from pipeline.finetuning.judging import judge as judging
from pipeline.finetuning.tasks import TASKS
from pipeline.finetuning.trials import search
from pipeline.finetuning.trials.running import Found, failures, outcomes_of, seconds_of
from pipeline.finetuning.trials.search import Outcome, Score
from pipeline.finetuning.trials.trial import Trial, read_predictions

PUBLISHED = "published.yaml"


@dataclass(frozen=True)
class Subject:
    """A checkpoint that is compared."""

    name: str
    export: str
    """Its Hugging Face folder; of random weights, the folder whose network they have."""
    from_scratch: bool
    layers: int
    hidden: int
    tokens: float | None = None
    """Tokens that it was pretrained on, if it is a checkpoint of a run."""


@dataclass(frozen=True)
class Cell:
    """What a checkpoint reached on a task."""

    score: Score
    on: str
    """`dev` or `test`."""
    lr: float
    batch: int
    seeds: int
    other: dict[str, float]
    """Means over the seeds of the other scores of that set."""
    seconds: float
    """Computing time of all its trials."""


@dataclass(frozen=True)
class Row:
    """A task, with what is true of all subjects."""

    task: str
    metric: str
    sizes: dict[str, int]
    trivial: float
    """Score of answers that ignore the input; `trivial_name` says which."""
    trivial_name: str
    cells: dict[str, Cell]
    """By the name of the subject; a subject whose trials failed has none."""
    differences: dict[str, Difference]
    """The first subject minus each of the others."""


@dataclass(frozen=True)
class Comparison:
    """What a comparison found: all that its report shows."""

    subjects: list[Subject]
    rows: list[Row]
    published: dict[str, Any]
    """The published encoder that is nearest in size, with its dev scores by task (`scores`)."""
    failures: list[str]
    seconds: float
    """Computing time of all trials, one after another."""

    def curve(self) -> dict[str, list[tuple[float, float]]]:
        """By task, (tokens, mean score) of the subjects that are checkpoints of a run."""
        trained = [(each.tokens, each.name) for each in self.subjects if each.tokens is not None]
        trained.sort(key=lambda each: each[0])
        return {
            row.task: [
                (tokens, row.cells[name].score.mean)
                for tokens, name in trained
                if name in row.cells
            ]
            for row in self.rows
        }


class Judged(NamedTuple):
    """The trials of one subject on one task."""

    task: str
    subject: Subject
    examined: Examined
    trials: Sequence[Trial]


def conclude(subjects: Sequence[Subject], judged: Sequence[Judged], found: Found) -> Comparison:
    """Scores over seeds, and paired tests of the first subject against each of the others.

    Args:
        judged: the trials of each subject on each task.
        found: what became of each trial, by its folder, as `run_trials` returns it.
    """
    by_task: dict[str, list[Judged]] = {}
    for each in judged:
        by_task.setdefault(each.task, []).append(each)
    failed = [str(error) for each in judged for error in failures(each.trials, found)]
    return Comparison(
        list(subjects),
        [_row(own, found) for own in by_task.values()],
        published(subjects[0].layers, subjects[0].hidden),
        failed,
        seconds_of(found.values()),
    )


def _row(judged: Sequence[Judged], found: Found) -> Row:
    settings = judged[0].trials[0].settings
    task, examined = TASKS[settings.task], judged[0].examined
    cells: dict[str, Cell] = {}
    shares: dict[str, np.ndarray] = {}
    for each in judged:
        outcomes = outcomes_of(each.trials, found)
        best = search.best_point(outcomes, task.metric)
        scored = search.score(best, task.metric)
        if scored is None:
            continue
        on, score = scored
        seconds = seconds_of(found[trial.folder] for trial in each.trials)
        cells[each.subject.name] = Cell(
            score, on, best[0].lr, best[0].batch, len(best), _means(best, on), seconds
        )
        chosen = [each.trials[outcomes.index(outcome)].folder for outcome in best]
        shares[each.subject.name] = np.stack(
            [judging.shares(task, *read_predictions(folder / f"{on}.jsonl")) for folder in chosen]
        )
    first = judged[0].subject.name
    differences = {
        name: compare(shares[first], own)
        for name, own in shares.items()
        if name != first and first in shares and task.metric_is_ratio
    }
    on = "test" if "test" in examined.trivial else "dev"
    return Row(
        judged[0].task,
        task.metric,
        examined.sizes,
        examined.trivial[on][task.metric],
        task.trivial,
        cells,
        differences,
    )


def _means(best: Sequence[Outcome], on: str) -> dict[str, float]:
    scores = [getattr(outcome, on) for outcome in best]
    names = [name for name in scores[0] if all(name in each for each in scores)]
    return {name: float(np.mean([each[name] for each in scores])) for name in names}


def published(layers: int, hidden: int) -> dict[str, Any]:
    """The row of the published encoder that is nearest in size.

    Sizes are compared by the logarithm of layers · hidden², which the weights of the layers are
    proportional to.
    """
    text = resources.files("pipeline.comparing").joinpath(PUBLISHED).read_text("utf-8")
    rows = yaml.safe_load(text)["rows"]
    size = math.log(layers * hidden**2)
    return min(rows, key=lambda row: abs(math.log(row["layers"] * row["hidden"] ** 2) - size))
