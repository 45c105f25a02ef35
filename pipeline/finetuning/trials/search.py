"""Trials of a grid, what their scores say together, and which head is kept."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median_low, stdev
from typing import Any, NamedTuple

from pipeline.settings.finetuning import FinetuneSettings


class Outcome(NamedTuple):
    """What became of a trial."""

    lr: float
    batch: int
    seed: int
    dev: Mapping[str, float] = {}
    """Scores of its best epoch."""
    test: Mapping[str, float] = {}
    error: str = ""
    """Why it has no scores; empty if it has."""

    @property
    def point(self) -> tuple[float, int]:
        return self.lr, self.batch


@dataclass(frozen=True)
class Score:
    """A score over seeds."""

    mean: float
    deviation: float | None
    """Standard deviation over the seeds (divided by their number − 1); None for one seed."""

    @classmethod
    def of(cls, values: Sequence[float]) -> "Score":
        return cls(mean(values), stdev(values) if len(values) > 1 else None)

    def __str__(self) -> str:
        """In per cent, as tables show it."""
        spread = "" if self.deviation is None else f" ± {100 * self.deviation:.1f}"
        return f"{100 * self.mean:.1f}{spread}"


def grid(settings: FinetuneSettings, seed: int) -> Iterator[tuple[FinetuneSettings, int]]:
    """Settings and seed of every combination that `finetune.search` lists."""
    search = settings.search
    for lr, batch, point_seed in itertools.product(
        search.lr or [settings.lr], search.batch or [settings.batch], search.seeds or [seed]
    ):
        yield settings.model_copy(update={"lr": lr, "batch": batch}), point_seed


def best_point(outcomes: Sequence[Outcome], metric: str) -> list[Outcome]:
    """The trials of the point with the highest mean dev score; of equals, the first.

    A point of which a trial has no score is no candidate. Empty if there is no candidate.
    """
    points: dict[tuple[float, int], list[Outcome]] = {}
    for outcome in outcomes:
        points.setdefault(outcome.point, []).append(outcome)
    whole = [each for each in points.values() if not any(outcome.error for outcome in each)]
    # Without a dev set there is one point only.
    return max(whole, key=lambda each: mean(o.dev.get(metric, 0.0) for o in each), default=[])


def kept(outcomes: Sequence[Outcome], metric: str) -> Outcome:
    """The trial of a point whose head is kept: the median one by dev score.

    The luckiest seed would promise more than the recipe gives. Of an even number, it is the lower
    one of the two in the middle.
    """
    middle = median_low(outcome.dev.get(metric, 0.0) for outcome in outcomes)
    return next(each for each in outcomes if each.dev.get(metric, 0.0) == middle)


def score(outcomes: Sequence[Outcome], metric: str) -> tuple[str, Score] | None:
    """The set that was scored (test, otherwise dev) and the score over seeds; None without one."""
    for name in ("test", "dev"):
        scores: list[Any] = [getattr(outcome, name).get(metric) for outcome in outcomes]
        if scores and None not in scores:
            return name, Score.of(scores)
    return None
