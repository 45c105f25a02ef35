"""How right single answers are, how sure the network was of them, and where it fails.

The score of a task is a ratio of sums over its examples: of hits and examples for accuracy, of
2 · hits and (entities found + entities in truth) for F1 of entities. `shares` gives both numbers of
each example, which is what paired tests over examples need (`significance`).
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.finetuning.examples.jsonl import Example
from pipeline.finetuning.judging import metrics
from pipeline.finetuning.tasks.base import Answer, Task
from pipeline.finetuning.tasks.cells import in_order

WORST = 50
"""Examples in the table of the worst."""
CONFUSED = 400
"""Most labels of a matrix of confusion."""


class Judgement(NamedTuple):
    """What the answers for one data set show beyond their scores."""

    calibration_error: float | None
    """Expected calibration error; None where answers have no probability."""
    confidences: list[tuple[float, bool]]
    """Probability of each answer (of each entity that was found), and whether it is right."""
    labels: list[str]
    confusion: list[list[int]]
    """[true label][label that was found]; empty where answers are no labels, or those of more than
    CONFUSED labels, whose matrix has more cells than a picture can show."""
    worst: list[dict[str, Any]]
    """The examples with the lowest score, of equals the one with the surest answer first."""


def shares(task: Task, examples: Sequence[Example], found: Sequence[Answer]) -> NDArray[np.float64]:
    """[N, 2]: what each example adds to the numerator and denominator of the task's metric.

    Of a metric that is no ratio, as a correlation: minus the error of the example, and 1.
    """
    return np.array(
        [task.share(example, answer) for example, answer in zip(examples, found, strict=True)]
    ).reshape(-1, 2)


def ratio(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """[...] scores of sums [..., 2]; 0 where the denominator is 0."""
    return np.divide(
        sums[..., 0], sums[..., 1], out=np.zeros(sums.shape[:-1]), where=sums[..., 1] > 0
    )


def judge(task: Task, examples: Sequence[Example], found: Sequence[Answer]) -> Judgement:
    """Calibration, confusion and worst examples of answers whose targets are known."""
    answered = list(zip(examples, found, strict=True))
    each = [task.confidences(*pair) for pair in answered]
    confidences = [pair for own in each for pair in own]
    added = shares(task, examples, found)
    scores = ratio(added)
    surest = [max((probability for probability, _ in own), default=0.0) for own in each]
    order = sorted(range(len(examples)), key=lambda i: (scores[i], -surest[i]))
    worst = [
        {
            "score": round(float(scores[i]), 4),
            "confidence": round(surest[i], 4),
            "example": examples[i],
            "answer": found[i],
        }
        for i in order[:WORST]
        if scores[i] < 1 and added[i, 1]  # else there is nothing to find, and nothing was found
    ]
    bins = metrics.calibration_bins(confidences)
    error = metrics.calibration_error(bins) if confidences else None
    pairs = Counter(labels for pair in answered for labels in task.label_pairs(*pair))
    labels = in_order(label for pair in pairs for label in pair)
    shown = labels if len(labels) <= CONFUSED else []
    return Judgement(
        error,
        confidences,
        labels,
        [[pairs[truth, given] for given in shown] for truth in shown],
        worst,
    )
