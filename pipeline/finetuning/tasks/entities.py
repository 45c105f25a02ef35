"""Named entities: a BIO label for every word."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np
import transformers

from pipeline.errors import TaskError
from pipeline.finetuning.features import IGNORED, Feature, Tokens
from pipeline.finetuning.jsonl import Example, require
from pipeline.finetuning.tasks.base import (
    Answer,
    Outputs,
    Task,
    TaskSetup,
    log_softmax,
)
from pipeline.finetuning.tasks.bio import (
    LABEL,
    best_labels,
    entities_of,
    to_bio,
    with_invisible,
    without_invisible,
)


class Entities(Task):
    """Every word (in Chinese, every character) gets a BIO label. Logits [S, K].

    The first piece of a word carries its label. A word that gives no token, such as white space, is
    part of an entity if the visible words on both sides are. Words beyond the length go into a
    further feature, so every word gets a label.
    """

    name = "ner"
    network = transformers.AutoModelForTokenClassification
    metric = "f1"
    fields: ClassVar = {"tokens": list}
    target = "labels"
    answer_form: ClassVar = {
        "labels": [str],
        "entities": [{"text": str, "type": str, "start": int, "end": int, "probability": float}],
    }
    sample: ClassVar = {"text": "王明在北京。"}

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
            if not isinstance(label, str) or not LABEL.fullmatch(label):
                raise TaskError(
                    f"{place}, key labels: {label!r} is not O, B-TYPE or I-TYPE, nor a label of "
                    "IOB1, BIOES, BILOU or BMES"
                )

    def unify(self, examples: list[Example], path: str, notes: list[str]) -> None:
        """Turn the labels of any scheme into BIO."""
        changed = 0
        for example in examples:
            labels = to_bio(example["labels"])
            changed += labels != example["labels"]
            example["labels"] = labels
        if changed:
            notes.append(
                f"{path}: {changed} of {len(examples)} lines are not BIO (IOB2), and are read as "
                "IOB1, BIOES, BILOU or BMES: a label that cannot go on from the one before it "
                "begins an entity"
            )

    def labels_of(self, examples: Iterable[Example]) -> set[str]:
        return {label for example in examples for label in example["labels"]}

    def label_set(self, examples: Iterable[Example]) -> list[str]:
        """O, B-X, I-X … for every type X."""
        types = sorted({label[2:] for label in self.labels_of(examples) if label != "O"})
        return ["O", *(f"{prefix}-{each}" for each in types for prefix in "BI")]

    def from_text(self, line: str) -> Example | None:
        return {"text": line, "tokens": list(line)}

    def features(self, examples: Sequence[Example], setup: TaskSetup) -> list[Feature]:
        pieces = _pieces(examples, setup)
        number = {label: i for i, label in enumerate(setup.labels)}
        features = []
        for i, example in enumerate(examples):
            labels = [number[label] for label in example.get("labels", [])]
            for window in _windows([len(pieces[word]) for word in example["tokens"]], setup):
                features.append(
                    _feature(i, example["tokens"], labels, pieces, range(*window), setup)
                )
        return features

    def visible(self, examples: list[Example], setup: TaskSetup) -> list[Example]:
        pieces = _pieces(examples, setup)

        def reduced(example: Example) -> Example:
            seen = [bool(pieces[word]) for word in example["tokens"]]
            return example | {"labels": without_invisible(example["labels"], seen)}

        return [reduced(each) if "labels" in each else each for each in examples]

    def answer(self, example: Example, outputs: Outputs, setup: TaskSetup) -> Answer:
        found = {}
        for feature, each in outputs:
            # The logits of a batch go on over the padding.
            for (word, _), values in zip(feature.origin, each[: len(feature.origin)], strict=True):
                if word >= 0:
                    found[word] = values
        words = sorted(found)
        scores = log_softmax(
            np.array([found[word] for word in words]).reshape(-1, len(setup.labels))
        )
        chosen = best_labels(scores, setup.labels)
        seen = [word in found for word in range(len(example["tokens"]))]
        labels = with_invisible([setup.labels[i] for i in chosen], seen)
        shares = np.full(len(seen), np.nan)
        shares[words] = np.exp(scores[np.arange(len(chosen)), chosen])
        return {"labels": labels, "entities": entities_of(example["tokens"], labels, shares)}

    def scores(self, examples: Sequence[Example], answers: Sequence[Answer]) -> dict[str, float]:
        from pipeline.finetuning import metrics  # a served head gives no scores

        truth = [example["labels"] for example in examples]
        return metrics.entities(truth, [answer["labels"] for answer in answers])


def _pieces(examples: Sequence[Example], setup: TaskSetup) -> dict[str, list[int]]:
    """Token ids of each word that occurs."""
    words = sorted({word for example in examples for word in example["tokens"]})
    ids = setup.tokenizer(words, add_special_tokens=False)["input_ids"] if words else []
    return dict(zip(words, ids, strict=True))


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
