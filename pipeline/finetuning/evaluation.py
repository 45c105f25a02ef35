"""Answers of a task network for a data set, and their scores."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from pipeline.finetuning.features import Feature
from pipeline.finetuning.jsonl import Example
from pipeline.finetuning.network import infer
from pipeline.finetuning.tasks.base import Answer, Logits, Task, TaskSetup


class Dataset(NamedTuple):
    """Examples, and the features that the network sees of them."""

    examples: list[Example]
    features: list[Feature]

    @classmethod
    def of(cls, task: Task, examples: list[Example], setup: TaskSetup) -> Dataset:
        """Reduce the targets to what gives tokens, and encode the examples."""
        examples = task.visible(examples, setup)
        return cls(examples, task.features(examples, setup) if examples else [])


def evaluate(
    task: Task, network: nn.Module, dataset: Dataset, batch: int, setup: TaskSetup
) -> dict[str, float]:
    """Scores of a data set; none if it is empty."""
    if not dataset.examples:
        return {}
    return task.scores(dataset.examples, answers(task, network, dataset, batch, setup))


def answers(
    task: Task, network: nn.Module, dataset: Dataset, batch: int, setup: TaskSetup
) -> list[Answer]:
    """One answer for each example."""
    features = dataset.features
    logits = infer(task, network, features, 2 * batch, setup.tokenizer.pad_token_id)
    outputs: list[list[tuple[Feature, Logits]]] = [[] for _ in dataset.examples]
    for feature, each in zip(features, logits, strict=True):
        outputs[feature.example].append((feature, each))
    return [
        task.answer(example, own, setup)
        for example, own in zip(dataset.examples, outputs, strict=True)
    ]
