"""A number for a text, or for a pair of texts."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from pipeline.errors import TaskError
from pipeline.finetuning.examples.jsonl import Example
from pipeline.finetuning.tasks.base import Answer, Outputs, TaskSetup
from pipeline.finetuning.tasks.classification import Classification, Pair


class Regression(Classification):
    """A text gets a number. Logits [1]; the loss is the squared error.

    While it is trained, the network gives the distance from the mean in standard deviations of the
    training examples: it would take long to learn numbers around 2000, or a hundred apart.
    """

    name = "regression"
    metric = "spearman"
    has_labels = False
    has_label_weights = False
    answer_form: ClassVar = {"score": float}
    scored_by = "regression"
    scored_with_labels = False
    metric_is_ratio = False
    trivial = "mean"
    aliases: ClassVar = {"text": Classification.aliases["text"], "label": ("score",)}
    problem_type = "regression"

    def check_target(self, example: Example, place: str) -> None:
        given = example.get("label", "")
        try:
            value = float(given)
        except (TypeError, ValueError, OverflowError):
            value = math.nan
        if isinstance(given, bool) or not math.isfinite(value):
            raise TaskError(
                f"{place}, key label: expected a number, found {example.get('label')!r:.60}"
            )
        example["label"] = value

    def labels_of(self, examples: Iterable[Example]) -> set[str]:
        return set()

    def label_set(self, examples: Iterable[Example]) -> list[str]:
        return ["score"]

    def nothing_to_learn(self, examples: list[Example]) -> str:
        return self.nothing_to_score(examples)

    def nothing_to_score(self, examples: Sequence[Example]) -> str:
        numbers = {example["label"] for example in examples}
        return "" if len(numbers) > 1 else f"every label is {numbers.pop():g}"

    def encoded(self, example: Example, setup: TaskSetup) -> list[Any]:
        mean, deviation = setup.units
        return [(float(example["label"]) - mean) / deviation]

    def units(self, examples: Sequence[Example]) -> tuple[float, float]:
        numbers = [example["label"] for example in examples]
        return float(np.mean(numbers)), float(np.std(numbers)) or 1.0

    @torch.no_grad()
    def finish(self, network: nn.Module, setup: TaskSetup) -> None:
        """The last layer takes the units over, so that other programs get the numbers too."""
        layers = [each for each in network.modules() if isinstance(each, nn.Linear)]
        *_, last = [each for each in layers if each.out_features == 1]
        mean, deviation = setup.units
        last.weight.mul_(deviation)
        last.bias.mul_(deviation).add_(mean)

    def answer(self, example: Example, outputs: Outputs, setup: TaskSetup) -> Answer:
        mean, deviation = setup.units
        return {"score": mean + deviation * float(np.mean([logits[0] for _, logits in outputs]))}

    def share(self, example: Example, answer: Answer) -> tuple[float, float]:
        return -abs(answer["score"] - example["label"]), 1.0

    def trivial_answers(
        self, train: Sequence[Example], examples: Sequence[Example]
    ) -> list[Answer]:
        targets = [example["label"] for example in train]
        return [{"score": sum(targets) / len(targets)}] * len(examples)


class Similarity(Regression, Pair):
    """A pair of texts gets a number, as in STS-B. Logits [1]."""

    name = "similarity"
    aliases: ClassVar = {**Pair.aliases, "label": ("score",)}
