"""How right single answers are, how sure the network was of them, and where it fails.

The score of a task is a ratio of sums over its examples: of hits and examples for accuracy, of
2 · hits and (entities found + entities in truth) for F1 of entities. `shares` gives both numbers of
each example, which is what paired tests over examples need (`significance`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from seqeval.metrics.sequence_labeling import get_entities

from pipeline.finetuning.examples.jsonl import Example
from pipeline.finetuning.judging import metrics
from pipeline.finetuning.tasks.base import Answer, Task, in_order

WORST = 50
"""Examples in the table of the worst."""
NUMBERS = ("regression", "similarity")
"""Tasks whose answer is a number. Their metric, a correlation, is no ratio of sums."""
TRIVIAL = {
    "ner": "no entity",
    "span": "first sentence",
    "choice": "most frequent place",
    "multilabel": "labels of most examples",
    **dict.fromkeys(NUMBERS, "mean"),
}
SENTENCE_ENDS = "。！？!?\n"


class Judgement(NamedTuple):
    """What the answers for one data set show beyond their scores."""

    calibration_error: float | None
    """Expected calibration error; None where answers have no probability."""
    confidences: list[tuple[float, bool]]
    """Probability of each answer (of each entity that was found), and whether it is right."""
    labels: list[str]
    confusion: list[list[int]]
    """[true label][label that was found]; empty where answers are no labels."""
    worst: list[dict[str, Any]]
    """The examples with the lowest score, of equals the one with the surest answer first."""


def shares(task: Task, examples: Sequence[Example], found: Sequence[Answer]) -> NDArray[np.float64]:
    """[N, 2]: what each example adds to the numerator and denominator of the task's metric.

    For a task of `NUMBERS`, minus the error and 1.
    """
    return np.array(
        [_share(task, example, answer) for example, answer in zip(examples, found, strict=True)]
    ).reshape(-1, 2)


def ratio(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """[...] scores of sums [..., 2]; 0 where the denominator is 0."""
    return np.divide(
        sums[..., 0], sums[..., 1], out=np.zeros(sums.shape[:-1]), where=sums[..., 1] > 0
    )


def judge(task: Task, examples: Sequence[Example], found: Sequence[Answer]) -> Judgement:
    """Calibration, confusion and worst examples of answers whose targets are known."""
    each = [_confidences(task, *pair) for pair in zip(examples, found, strict=True)]
    confidences = [pair for own in each for pair in own]
    scores = ratio(shares(task, examples, found))
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
        if scores[i] < 1 and not _is_empty(task, examples[i], found[i])
    ]
    sure, right = [pair[0] for pair in confidences], [pair[1] for pair in confidences]
    error = metrics.calibration_error(sure, right) if confidences else None
    pairs = Counter(_label_pairs(task, examples, found))
    labels = in_order(label for pair in pairs for label in pair)
    return Judgement(
        error,
        confidences,
        labels,
        [[pairs[truth, given] for given in labels] for truth in labels],
        worst,
    )


def trivial_answers(
    task: Task, train: Sequence[Example], examples: Sequence[Example]
) -> list[Answer]:
    """Answers that ignore what is asked: the baseline that a network has to beat.

    `TRIVIAL` says for each kind of task what they are.
    """
    targets = [example[task.target] for example in train]
    if task.name == "ner":
        return [{"labels": ["O"] * len(example["tokens"])} for example in examples]
    if task.name == "span":
        return [{"answer": _first_sentence(example["context"])} for example in examples]
    if task.name == "multilabel":
        counts = Counter(label for labels in targets for label in labels)
        return [{"labels": [each for each in counts if 2 * counts[each] > len(train)]}] * len(
            examples
        )
    if task.name in NUMBERS:
        return [{"score": sum(targets) / len(targets)}] * len(examples)
    return [{task.target: Counter(targets).most_common(1)[0][0]}] * len(examples)


def trivial_name(task: Task) -> str:
    """What the trivial answers of a task are, for tables."""
    return TRIVIAL.get(task.name, "most frequent label")


def _first_sentence(context: str) -> str:
    ends = [place for mark in SENTENCE_ENDS if (place := context.find(mark)) > 0]
    return context[: min(ends, default=len(context))]


def _share(task: Task, example: Example, answer: Answer) -> tuple[float, float]:
    if task.name == "span":
        texts = [each["text"] for each in example["answers"]]
        return metrics.spans([texts], [answer["answer"]])["f1"], 1.0
    if task.name in NUMBERS:
        return -abs(answer["score"] - example["label"]), 1.0
    if task.name in ("ner", "multilabel"):
        read = _entities if task.name == "ner" else set
        truth, given = read(example["labels"]), read(answer["labels"])
        return 2.0 * len(truth & given), float(len(truth) + len(given))
    return float(answer[task.target] == example[task.target]), 1.0


def _is_empty(task: Task, example: Example, answer: Answer) -> bool:
    """Whether there is nothing to find, and nothing was found."""
    return _share(task, example, answer)[1] == 0


def _entities(labels: Sequence[str]) -> set[tuple[str, int, int]]:
    return set(get_entities(list(labels)))


def _confidences(task: Task, example: Example, answer: Answer) -> list[tuple[float, bool]]:
    if task.name in NUMBERS:
        return []
    if task.name == "multilabel":
        shares = answer["probabilities"].items()
        return [(max(p, 1 - p), (p > 0.5) == (label in example["labels"])) for label, p in shares]
    if task.name == "ner":
        right = {(kind, start, end + 1) for kind, start, end in _entities(example["labels"])}
        starts = np.cumsum([0, *(len(word) for word in example["tokens"])])
        words = {int(place): number for number, place in enumerate(starts)}
        return [
            (
                entity["probability"],
                (entity["type"], words.get(entity["start"]), words.get(entity["end"])) in right,
            )
            for entity in answer.get("entities", [])
        ]
    score = ratio(np.array(_share(task, example, answer)))
    if task.name == "span":
        sure = [each["probability"] for each in answer.get("candidates", [])][:1]
    else:
        shared = answer.get("probabilities", [])
        values = shared.values() if isinstance(shared, dict) else shared
        sure = [max(values)] if values else []
    return [(probability, bool(score == 1)) for probability in sure]


def _label_pairs(
    task: Task, examples: Sequence[Example], found: Sequence[Answer]
) -> list[tuple[str, str]]:
    """(truth, found) of each label; for entities, the type of each word."""
    if task.name == "ner":
        return [
            (truth[2:] or "O", given[2:] or "O")
            for example, answer in zip(examples, found, strict=True)
            for truth, given in zip(example["labels"], answer["labels"], strict=True)
        ]
    if task.name not in ("classification", "pair"):
        return []
    return [(e["label"], a["label"]) for e, a in zip(examples, found, strict=True)]
