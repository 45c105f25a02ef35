"""Answers of a task network for a data set, and their scores."""

from collections.abc import Sequence
from typing import NamedTuple

from pipeline.finetuning.examples.features import Feature
from pipeline.finetuning.examples.jsonl import Example
from pipeline.finetuning.network import TaskNetwork, infer
from pipeline.finetuning.tasks.base import Answer, Logits, Outputs, Task, TaskSetup
from pipeline.finetuning.workers import ALONE, Workers


class Dataset(NamedTuple):
    """Examples, and the features that the network sees of them."""

    examples: list[Example]
    features: list[Feature]

    @classmethod
    def of(cls, task: Task, examples: list[Example], setup: TaskSetup) -> "Dataset":
        """Reduce the targets to what gives tokens, and encode the examples."""
        examples = task.visible(examples, setup)
        return cls(examples, task.features(examples, setup) if examples else [])


def scores_of(
    task: Task, examples: list[Example], found: list[Answer], labels: Sequence[str]
) -> dict[str, float]:
    """Scores of the answers; none where examples or their targets are missing."""
    if not examples or not all(task.target in example for example in examples):
        return {}
    return task.scores(examples, found, labels)


def answers(
    model: TaskNetwork, dataset: Dataset, batch: int, workers: Workers = ALONE
) -> list[Answer]:
    """One answer for each example; all workers get all of them."""
    outputs = outputs_of(model, dataset, batch, workers)
    return model.task.answers(dataset.examples, outputs, model.setup)


def outputs_of(
    model: TaskNetwork, dataset: Dataset, batch: int, workers: Workers
) -> Sequence[Outputs]:
    """The outputs for each example. The workers share the features, and all get all outputs."""
    features = dataset.features
    logits = workers.collect(infer(model, workers.share(features), 2 * batch))
    outputs: list[list[tuple[Feature, Logits]]] = [[] for _ in dataset.examples]
    for feature, each in zip(features, logits, strict=True):
        outputs[feature.example].append((feature, each))
    return outputs
