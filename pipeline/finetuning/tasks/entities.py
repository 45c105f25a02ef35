"""Named entities: a BIO label for every word."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np
import transformers

from pipeline.errors import TaskError
from pipeline.finetuning import metrics
from pipeline.finetuning.features import IGNORED, Feature, Tokens
from pipeline.finetuning.jsonl import Example, require
from pipeline.finetuning.tasks.base import Answer, Outputs, Task, TaskSetup, log_softmax
from pipeline.finetuning.tasks.bio import best_labels, entities_of

_BIO = re.compile(r"O|[BI]-\S+")


class Entities(Task):
    """Every word (in Chinese, every character) gets a BIO label. Logits [S, K].

    The first piece of a word carries its label. Words that tokenize to nothing (white space) are O.
    Words beyond the length go into a further feature, so every word gets a label.
    """

    name = "ner"
    network = transformers.AutoModelForTokenClassification
    metric = "f1"
    fields: ClassVar = {"tokens": list}
    target = "labels"

    def check_fields(self, example: Example, place: str) -> Example:
        if "tokens" not in example and isinstance(example.get("text"), str):
            example = example | {"tokens": list(example["text"])}
        return super().check_fields(example, place)

    def check_target(self, example: Example, place: str) -> None:
        require(example, "labels", list, place, self.name)
        if len(example["labels"]) != len(example["tokens"]):
            raise TaskError(
                f"{place}: {len(example['tokens'])} tokens but {len(example['labels'])} labels"
            )
        for label in example["labels"]:
            if not isinstance(label, str) or not _BIO.fullmatch(label):
                raise TaskError(f"{place}, key labels: {label!r} is not O, B-TYPE or I-TYPE")

    def labels_of(self, examples: Iterable[Example]) -> set[str]:
        return {label for example in examples for label in example["labels"]}

    def label_set(self, examples: Iterable[Example]) -> list[str]:
        """O, B-X, I-X … for every type X."""
        types = sorted({label[2:] for label in self.labels_of(examples) if label != "O"})
        return ["O", *(f"{prefix}-{each}" for each in types for prefix in "BI")]

    def from_text(self, line: str) -> Example | None:
        return {"text": line, "tokens": list(line)}

    def features(self, examples: Sequence[Example], setup: TaskSetup) -> list[Feature]:
        words = sorted({word for example in examples for word in example["tokens"]})
        ids = setup.tokenizer(words, add_special_tokens=False)["input_ids"] if words else []
        pieces = dict(zip(words, ids, strict=True))
        number = {label: i for i, label in enumerate(setup.labels)}
        features = []
        for i, example in enumerate(examples):
            labels = [number[label] for label in example.get("labels", [])]
            for window in _windows([len(pieces[word]) for word in example["tokens"]], setup):
                features.append(
                    _feature(i, example["tokens"], labels, pieces, range(*window), setup)
                )
        return features

    def answer(self, example: Example, outputs: Outputs, setup: TaskSetup) -> Answer:
        outside = np.where([label == "O" for label in setup.labels], 0.0, -1e4)
        scores = np.tile(outside, (len(example["tokens"]), 1))
        for feature, each in outputs:
            # The logits of a batch go on over the padding.
            for (word, _), values in zip(feature.origin, each[: len(feature.origin)], strict=True):
                if word >= 0:
                    scores[word] = values
        scores = log_softmax(scores)
        chosen = best_labels(scores, setup.labels)
        labels = [setup.labels[i] for i in chosen]
        shares = np.exp(scores[np.arange(len(chosen)), chosen])
        return {"labels": labels, "entities": entities_of(example["tokens"], labels, shares)}

    def scores(self, examples: Sequence[Example], answers: Sequence[Answer]) -> dict[str, float]:
        truth = [example["labels"] for example in examples]
        return metrics.entities(truth, [answer["labels"] for answer in answers])


def _feature(
    example: int,
    words: Sequence[str],
    labels: Sequence[int],
    pieces: dict[str, list[int]],
    window: range,
    setup: TaskSetup,
) -> Feature:
    ids, origin, target = [setup.tokenizer.cls_token_id], [(-1, -1)], [IGNORED]
    for word in window:
        for place, piece in enumerate(pieces[words[word]][: setup.length - 2]):
            ids.append(piece)
            origin.append((-1, -1) if place else (word, word + 1))
            target.append(IGNORED if place or not labels else labels[word])
    ids.append(setup.tokenizer.sep_token_id)
    origin.append((-1, -1))
    target.append(IGNORED)
    return Feature(example, [Tokens(ids, [0] * len(ids))], target, origin)


def _windows(sizes: Sequence[int], setup: TaskSetup) -> list[tuple[int, int]]:
    """Ranges of words, of these numbers of pieces, that fit into `length` with [CLS] and [SEP]."""
    room, windows, start, used = setup.length - 2, [], 0, 0
    for word, size in enumerate(min(size, room) for size in sizes):
        if used + size > room:
            windows.append((start, word))
            start, used = word, 0
        used += size
    return [*windows, (start, len(sizes))]
