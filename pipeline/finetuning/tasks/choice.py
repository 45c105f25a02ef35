"""Multiple choice: which of several answers fits the context and the question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import transformers
from torch import Tensor

from pipeline.errors import TaskError
from pipeline.finetuning.features import Feature, FeatureBatch
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


class Choice(Task):
    """A choice's input is [CLS] context [SEP] question choice [SEP]. Logits [C]."""

    name = "choice"
    network = transformers.AutoModelForMultipleChoice
    metric = "accuracy"
    fields: ClassVar = {"context": str, "question": str, "choices": list}
    target = "answer"
    multiple_choice = True
    has_labels = False

    def check_target(self, example: Example, place: str) -> None:
        require(example, "answer", int, place, self.name)
        if not 0 <= example["answer"] < len(example["choices"]):
            raise TaskError(
                f"{place}, key answer: {example['answer']} is not the index of a choice "
                f"(there are {len(example['choices'])}, counted from 0)"
            )

    def features(self, examples: Sequence[Example], setup: TaskSetup) -> list[Feature]:
        flat = [(example, choice) for example in examples for choice in example["choices"]]
        contexts = [example["context"] for example, _ in flat]
        questions = [example["question"] + choice for example, choice in flat]
        encoded = encode(setup, contexts, questions, truncation="longest_first")
        features, start = [], 0
        for i, example in enumerate(examples):
            stop = start + len(example["choices"])
            inputs = [tokens_at(encoded, place) for place in range(start, stop)]
            target = [example["answer"]] if "answer" in example else []
            features.append(Feature(i, inputs, target, []))
            start = stop
        return features

    def logits(self, output: Any, batch: FeatureBatch) -> Tensor:
        lowest = torch.finfo(output.logits.dtype).min
        return output.logits.masked_fill(batch.choices == 0, lowest)

    def answer(self, example: Example, outputs: Outputs, setup: TaskSetup) -> Answer:
        shares = softmax(outputs[0][1][: len(example["choices"])])
        best = int(shares.argmax())
        choice = example["choices"][best]
        return {"answer": best, "choice": choice, "probabilities": shares.tolist()}

    def scores(self, examples: Sequence[Example], answers: Sequence[Answer]) -> dict[str, float]:
        right = [e["answer"] == a["answer"] for e, a in zip(examples, answers, strict=True)]
        return {"accuracy": sum(right) / len(right)}
