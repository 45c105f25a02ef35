"""What all tasks have in common: how examples are read, encoded, answered and scored.

Logits reach the loss as [..., K] with targets [...]; a target of -100 is not counted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from transformers import BatchEncoding, PreTrainedTokenizerBase

from pipeline.errors import TaskError
from pipeline.finetuning.features import Feature, FeatureBatch, Tokens
from pipeline.finetuning.jsonl import Example, parse_object, read_lines, require

Answer = dict[str, Any]
Logits = NDArray[np.floating]
Outputs = Sequence[tuple[Feature, Logits]]
"""The features of one example, each with its logits."""


class TaskSetup(NamedTuple):
    """What a task needs to encode examples and to name answers."""

    tokenizer: PreTrainedTokenizerBase
    labels: Sequence[str]
    """Names of the classes or of the token labels; empty for choices and spans."""
    length: int
    """Largest number of tokens in an input sequence."""


class Task(ABC):
    """One kind of task: its data format, its features, its answers and its scores."""

    name: ClassVar[str]
    """What `finetune.task` calls it."""
    network: ClassVar[Any]
    """Auto class of the network."""
    metric: ClassVar[str]
    """The score that chooses the best epoch."""
    fields: ClassVar[dict[str, type]]
    """Keys of an example that the network reads, with the types of their values."""
    target: ClassVar[str]
    """Key of what is to be predicted."""
    text_form: ClassVar[str] = "JSON"
    """What a line to be predicted may be, for messages."""
    multiple_choice: ClassVar[bool] = False
    """Whether an example is several input sequences, one for each choice."""
    has_labels: ClassVar[bool] = True
    """Whether answers come from a fixed set of labels."""

    @abstractmethod
    def check_target(self, example: Example, place: str) -> None:
        """Raise TaskError unless the target is there and fits the rest of the example."""

    @abstractmethod
    def features(self, examples: Sequence[Example], setup: TaskSetup) -> list[Feature]:
        """What the network sees, in the order of the examples."""

    @abstractmethod
    def answer(self, example: Example, outputs: Outputs, setup: TaskSetup) -> Answer:
        """The answer for an example."""

    @abstractmethod
    def scores(self, examples: Sequence[Example], answers: Sequence[Answer]) -> dict[str, float]:
        """Scores by name, `metric` first."""

    def logits(self, output: Any, batch: FeatureBatch) -> Tensor:
        """[..., K] from the network's output."""
        return output.logits

    def labels_of(self, examples: Iterable[Example]) -> set[str]:
        """All labels that occur as targets."""
        return set()

    def label_set(self, examples: Iterable[Example]) -> list[str]:
        """The labels of the training examples, in a fixed order."""
        return sorted(self.labels_of(examples))

    def from_text(self, line: str) -> Example | None:
        """An example without its target from a line of plain text, where the task allows that."""
        return None

    def read(self, path: str, labels: Sequence[str] | None = None) -> list[Example]:
        """The labelled examples of a JSONL file; class labels become strings.

        Raises TaskError with file, line and key: the file is missing, empty or not JSONL, a field
        is missing or has another type, a label is not among `labels` (when those are given).
        """
        examples = []
        for place, line in read_lines(path):
            example = self.check_fields(parse_object(line, place), place)
            self.check_target(example, place)
            unknown = self.labels_of([example]) - set(labels or ())
            if labels is not None and unknown:
                raise TaskError(
                    f"{place}: label {sorted(unknown)[0]!r} does not occur in the training "
                    f"examples ({', '.join(labels)})"
                )
            examples.append(example)
        if not examples:
            keys = ", ".join([*self.fields, self.target])
            raise TaskError(f"{path}: no examples; expected JSON lines with {keys}")
        return examples

    def check_fields(self, example: Example, place: str) -> Example:
        """The example, if it has the fields that the network reads; its target is not checked."""
        for key, kind in self.fields.items():
            require(example, key, kind, place, self.name)
            if kind is list and not (
                example[key] and all(isinstance(item, str) and item for item in example[key])
            ):
                raise TaskError(
                    f"{place}, key {key}: expected a list of strings that are not empty"
                )
        return example


def encode(setup: TaskSetup, *texts: list[str], **options: Any) -> BatchEncoding:
    """Token ids and segments of texts or pairs of texts, cut to the length."""
    return setup.tokenizer(
        *texts,
        max_length=setup.length,
        return_token_type_ids=True,
        return_attention_mask=False,
        **options,
    )


def tokens_at(encoded: BatchEncoding, index: int) -> Tokens:
    """One encoded sequence."""
    return Tokens(encoded["input_ids"][index], encoded["token_type_ids"][index])


def log_softmax(values: Logits) -> Logits:
    """Log probabilities along the last axis."""
    shifted = values - values.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def softmax(values: Logits) -> Logits:
    """Probabilities along the last axis."""
    return np.exp(log_softmax(values))
