"""Any number of labels for a text."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import TaskError
from pipeline.finetuning.examples.features import FeatureBatch
from pipeline.finetuning.examples.jsonl import Example, require
from pipeline.finetuning.tasks.base import (
    Answer,
    Outputs,
    Task,
    TaskSetup,
    by_label,
    log_softmax,
    softmax,
)
from pipeline.finetuning.tasks.cells import listed, whole
from pipeline.finetuning.tasks.classification import Classification

SEPARATOR = re.compile(r"[,|;#、，；]")
"""What other programs put between the labels in a cell; doccano has #."""
NAMES = "the names of the labels that an example has (not 0 or 1 for every label)"


class MultiLabel(Classification):
    """A text gets any number of labels: those with a probability over one half. Logits [K, 2]."""

    name = "multilabel"
    metric = "f1"
    target = "labels"
    has_label_weights = False
    answer_form: ClassVar = {"labels": [str], "probabilities": {str: float}}
    scored_by = "multilabel"
    scored_with_labels = False
    trivial = "labels of most examples"
    aliases: ClassVar = {"text": Classification.aliases["text"], "labels": ("label", "tags")}
    problem_type = "multi_label_classification"
    may_be_blank = frozenset(("labels",))

    def published(self, record: Example) -> Example:
        """The labels of a table are JSON, or words between white space."""
        found = Task.published(self, record)
        cell = found.get("labels")
        if isinstance(cell, dict) and "choices" in cell:  # several of Label Studio's JSON_MIN
            return found | {"labels": cell["choices"]}
        if not isinstance(cell, str):
            return found
        labels = listed(cell, "labels", words=True)
        if not cell.lstrip().startswith("[") and SEPARATOR.search(cell):
            form = json.dumps(labels, ensure_ascii=False)
            raise TaskError(
                f"key labels: {cell!r:.60} has other signs between its labels than white space: "
                f"put spaces there or, where they belong to a label, write {form}"
            )
        return found | {"labels": labels}

    def check_target(self, example: Example, place: str) -> None:
        if "labels" not in example and (own := _columns_of_labels(example)):
            raise TaskError(f"{place}: no key 'labels'; {_advice(own)}")
        require(example, "labels", list, place, self.name)
        given = [whole(each) for each in example["labels"]]
        labels = [str(each).strip() for each in given if type(each) in (str, int)]
        if len(labels) < len(given) or not all(labels):
            raise TaskError(f"{place}, key labels: expected a list of {NAMES}, found {given!r:.60}")
        if twice := [label for label, times in Counter(labels).items() if times > 1]:
            raise TaskError(
                f"{place}, key labels: {twice[0]!r} stands twice; expected a list of {NAMES}"
            )
        example["labels"] = sorted(labels)

    def advice_without_targets(self, example: Example) -> str:
        own = _columns_of_labels(example)
        return _advice(own) if len(own) > 1 else super().advice_without_targets(example)

    def nothing_to_learn(self, examples: list[Example]) -> str:
        """One label that not all examples have can be learnt; equal labels of all cannot.

        All are equal where 0 and 1 for two labels are taken for names.
        """
        different = {tuple(example["labels"]) for example in examples}
        (first, *others) = sorted(different)
        if others or (len(examples) == 1 and len(first) > 1):
            return ""
        if len(first) < 2:
            return super().nothing_to_learn(examples)
        return f"all examples have the labels {', '.join(first)}; expected {NAMES}"

    def nothing_to_score(self, examples: Sequence[Example]) -> str:
        return "" if self.labels_of(examples) else "no example has a label"

    def labels_of(self, examples: Iterable[Example]) -> set[str]:
        return {label for example in examples for label in example["labels"]}

    def encoded(self, example: Example, setup: TaskSetup) -> list[Any]:
        return [int(label in example["labels"]) for label in setup.labels]

    def logits(self, output: Any, batch: FeatureBatch) -> Tensor:
        """[B, K, 2]: of the classes `no`, whose logit is 0, and `yes`, so that the cross-entropy is
        that of a logistic regression for each label."""
        return torch.stack([torch.zeros_like(output.logits), output.logits], dim=-1)

    def answer(self, example: Example, outputs: Outputs, setup: TaskSetup) -> Answer:
        means = np.mean([log_softmax(logits) for _, logits in outputs], axis=0)
        shares = softmax(means)[:, 1]
        chosen = [setup.labels[number] for number in np.flatnonzero(shares > 0.5).tolist()]
        return {"labels": chosen, "probabilities": by_label(setup.labels, shares)}

    def share(self, example: Example, answer: Answer) -> tuple[float, float]:
        truth, given = set(example["labels"]), set(answer["labels"])
        return 2.0 * len(truth & given), float(len(truth) + len(given))

    def confidences(self, example: Example, answer: Answer) -> list[tuple[float, bool]]:
        """Of each label that is listed, that it belongs to the example or that it does not."""
        shares = answer["probabilities"].items()
        return [(max(p, 1 - p), (p > 0.5) == (label in example["labels"])) for label, p in shares]

    def trivial_answers(
        self, train: Sequence[Example], examples: Sequence[Example]
    ) -> list[Answer]:
        counts = Counter(label for example in train for label in example["labels"])
        frequent = [label for label in counts if 2 * counts[label] > len(train)]
        return [{"labels": frequent}] * len(examples)


def _columns_of_labels(example: Example) -> list[str]:
    """Keys with 0 or 1."""
    return [key for key, value in example.items() if value in (0, 1, "0", "1") and key != "id"]


def _advice(own: Sequence[str]) -> str:
    """What to do about columns of 0 and 1."""
    return (
        f"{', '.join(own)} are 0 or 1, and a column for each label is not read: write the names of "
        "the labels of each example into one, labels, with spaces between them, as "
        f"{' '.join(own[:2])}"
    )
