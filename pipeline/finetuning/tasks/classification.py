"""One label for a text, or for a pair of texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

import transformers

from pipeline.finetuning.features import Feature
from pipeline.finetuning.jsonl import Example, require
from pipeline.finetuning.tasks.base import (
    Answer,
    Outputs,
    Task,
    TaskSetup,
    encode,
    softmax,
    tokens_at,
)


class Classification(Task):
    """A text gets one label. Logits [K]."""

    name = "classification"
    network = transformers.AutoModelForSequenceClassification
    metric = "accuracy"
    fields: ClassVar = {"text": str}
    target = "label"
    answer_form: ClassVar = {"label": str, "probabilities": {str: float}}
    sample: ClassVar = {"text": "房间很干净。"}

    def check_target(self, example: Example, place: str) -> None:
        require(example, "label", (str, int), place, self.name)
        example["label"] = str(example["label"])

    def labels_of(self, examples: Iterable[Example]) -> set[str]:
        return {example["label"] for example in examples}

    def from_text(self, line: str) -> Example | None:
        return {"text": line}

    def features(self, examples: Sequence[Example], setup: TaskSetup) -> list[Feature]:
        texts = [[setup.clean(example[field]) for example in examples] for field in self.fields]
        encoded = encode(setup, *texts, truncation="longest_first")
        number = {label: i for i, label in enumerate(setup.labels)}
        targets = [[number[each["label"]]] if "label" in each else [] for each in examples]
        return [Feature(i, [tokens_at(encoded, i)], each, []) for i, each in enumerate(targets)]

    def answer(self, example: Example, outputs: Outputs, setup: TaskSetup) -> Answer:
        shares = softmax(outputs[0][1])
        named = dict(zip(setup.labels, shares.tolist(), strict=True))
        return {"label": setup.labels[int(shares.argmax())], "probabilities": named}

    def scores(self, examples: Sequence[Example], answers: Sequence[Answer]) -> dict[str, float]:
        from pipeline.finetuning import metrics  # a served head gives no scores

        truth = [example["label"] for example in examples]
        return metrics.classification(truth, [answer["label"] for answer in answers])


class Pair(Classification):
    """A pair of texts gets one label. Logits [K]."""

    name = "pair"
    fields: ClassVar = {"sentence1": str, "sentence2": str}
    sample: ClassVar = {"sentence1": "怎么还款", "sentence2": "如何还款"}
    text_form = "two texts with a tab between, or JSON"

    def from_text(self, line: str) -> Example | None:
        first, tab, second = line.partition("\t")
        return {"sentence1": first, "sentence2": second} if tab else None
