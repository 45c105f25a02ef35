"""Labels or a number for a text, or for a pair of texts."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import transformers
from torch import Tensor

from pipeline.errors import TaskError
from pipeline.finetuning.examples.features import Feature, FeatureBatch
from pipeline.finetuning.examples.jsonl import Example, require, without
from pipeline.finetuning.tasks.base import (
    Answer,
    Outputs,
    Task,
    TaskSetup,
    encode,
    log_softmax,
    softmax,
    tokens_at,
)
from pipeline.finetuning.tasks.cells import listed, whole

SEPARATOR = re.compile(r"[,|;、，；]")
"""What other programs put between the labels in a cell."""
NAMES = "the names of the labels that an example has (not 0 or 1 for every label)"


class Classification(Task):
    """A text gets one label. Logits [K].

    A text that is longer than the length loses its end or, with a stride, is read in windows, whose
    log probabilities are averaged.
    """

    name = "classification"
    network = transformers.AutoModelForSequenceClassification
    metric = "accuracy"
    fields: ClassVar = {"text": str}
    target = "label"
    has_label_weights = True
    answer_form: ClassVar = {"label": str, "probabilities": {str: float}}
    scored_by = "classification"
    aliases: ClassVar = {"text": ("sentence", "text_a", "content", "review"), "label": ("class",)}
    sample: ClassVar = {"text": "房间很干净。"}

    def published(self, record: Example) -> Example:
        """CLUE's WSC marks its two spans in the text."""
        if isinstance(record.get("target"), dict) and "span1_index" in record["target"]:
            record = {**record, "text": _marked(record.get("text"), record["target"])}
        return super().published(record)

    def check_target(self, example: Example, place: str) -> None:
        if "label" in example:
            example["label"] = whole(example["label"])
        if isinstance(example.get("label"), bool):
            example["label"] = json.dumps(example["label"])
        require(example, "label", (str, int), place, self.name)
        example["label"] = str(example["label"]).strip()
        if not example["label"]:
            raise TaskError(f"{place}, key label: it is blank")

    def labels_of(self, examples: Iterable[Example]) -> set[str]:
        return {example["label"] for example in examples}

    def from_text(self, line: str) -> Example | None:
        return {"text": line}

    def features(self, examples: Sequence[Example], setup: TaskSetup) -> list[Feature]:
        texts = [[setup.clean(example[field]) for example in examples] for field in self.fields]
        windows = {} if setup.stride is None else {"return_overflowing_tokens": True}
        encoded = encode(setup, *texts, truncation=True, stride=setup.stride or 0, **windows)
        numbers = encoded.get("overflow_to_sample_mapping", range(len(examples)))
        targets = [self.encoded(each, setup) if self.target in each else [] for each in examples]
        return [
            Feature(number, [tokens_at(encoded, place)], targets[number], [])
            for place, number in enumerate(numbers)
        ]

    def encoded(self, example: Example, setup: TaskSetup) -> list[Any]:
        """The target of an example as numbers."""
        return [setup.labels.index(example["label"])]

    def answer(self, example: Example, outputs: Outputs, setup: TaskSetup) -> Answer:
        shares = softmax(np.mean([log_softmax(logits) for _, logits in outputs], axis=0))
        named = dict(zip(setup.labels, shares.tolist(), strict=True))
        return {"label": setup.labels[int(shares.argmax())], "probabilities": named}

    def submitted(self, example: Example, answer: Answer) -> Any:
        return {"label": answer["label"]}

    def label_pairs(self, example: Example, answer: Answer) -> list[tuple[str, str]]:
        return [(example["label"], answer["label"])]


class Pair(Classification):
    """A pair of texts gets one label. Logits [K]. What is too long loses its end."""

    name = "pair"
    fields: ClassVar = {"sentence1": str, "sentence2": str}
    aliases: ClassVar = {
        "sentence1": ("text_a", "premise", "query1", "question1", "query", "text1"),
        "sentence2": ("text_b", "hypothesis", "hypo", "query2", "question2", "title", "text2"),
        "label": ("gold_label", "class"),
    }
    order: ClassVar = ("sentence1", "sentence2", "label")
    sample: ClassVar = {"sentence1": "怎么还款", "sentence2": "如何还款"}
    text_form = (
        "two texts with one tab between (of a table with more columns, predict.columns names or "
        "counts them), or JSON"
    )

    def published(self, record: Example) -> Example:
        """CLUE's CSL asks whether key words are those of an abstract."""
        if isinstance(record.get("keyword"), list) and "abst" in record:
            if not all(isinstance(each, str) for each in record["keyword"]):
                raise TaskError(f"key keyword: expected words, found {record['keyword']!r:.60}")
            pair = {"sentence1": " ".join(record["keyword"]), "sentence2": record["abst"]}
            record = without(record, "keyword", "abst") | pair
        return super().published(record)

    def from_text(self, line: str) -> Example | None:
        texts = line.split("\t")
        return dict(zip(self.fields, texts, strict=True)) if len(texts) == 2 else None


class MultiLabel(Classification):
    """A text gets any number of labels: those with a probability over one half. Logits [K, 2]."""

    name = "multilabel"
    metric = "f1"
    target = "labels"
    has_label_weights = False
    answer_form: ClassVar = {"labels": [str], "probabilities": {str: float}}
    scored_by = "multilabel"
    trivial = "labels of most examples"
    aliases: ClassVar = {"text": Classification.aliases["text"], "labels": ("label", "tags")}
    problem_type = "multi_label_classification"
    may_be_blank = frozenset(("labels",))

    def published(self, record: Example) -> Example:
        """The labels of a table are JSON, or words between white space."""
        found = Task.published(self, record)
        cell = found.get("labels")
        if not isinstance(cell, str):
            return found
        labels = listed(cell, "labels", words=True)
        if not cell.lstrip().startswith("[") and SEPARATOR.search(cell):
            raise TaskError(
                f"key labels: {cell!r:.60} has other signs between its labels than white space; "
                f"where they belong to a label, write {json.dumps(labels, ensure_ascii=False)}"
            )
        return found | {"labels": labels}

    def check_target(self, example: Example, place: str) -> None:
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
        named = dict(zip(setup.labels, shares.tolist(), strict=True))
        chosen = [label for label, share in named.items() if share > 0.5]
        return {"labels": chosen, "probabilities": named}

    def submitted(self, example: Example, answer: Answer) -> Any:
        return {"labels": answer["labels"]}

    def share(self, example: Example, answer: Answer) -> tuple[float, float]:
        truth, given = set(example["labels"]), set(answer["labels"])
        return 2.0 * len(truth & given), float(len(truth) + len(given))

    def confidences(self, example: Example, answer: Answer) -> list[tuple[float, bool]]:
        """Of each label, that it belongs to the example or that it does not."""
        shares = answer["probabilities"].items()
        return [(max(p, 1 - p), (p > 0.5) == (label in example["labels"])) for label, p in shares]

    def trivial_answers(
        self, train: Sequence[Example], examples: Sequence[Example]
    ) -> list[Answer]:
        counts = Counter(label for example in train for label in example["labels"])
        frequent = [label for label in counts if 2 * counts[label] > len(train)]
        return [{"labels": frequent}] * len(examples)

    def label_pairs(self, example: Example, answer: Answer) -> list[tuple[str, str]]:
        return []


class Regression(Classification):
    """A text gets a number. Logits [1]; the loss is the squared error."""

    name = "regression"
    metric = "spearman"
    has_labels = False
    has_label_weights = False
    answer_form: ClassVar = {"score": float}
    scored_by = "regression"
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
        numbers = {example["label"] for example in examples}
        return "" if len(numbers) > 1 else f"every label is {numbers.pop():g}"

    def encoded(self, example: Example, setup: TaskSetup) -> list[Any]:
        return [float(example["label"])]

    def answer(self, example: Example, outputs: Outputs, setup: TaskSetup) -> Answer:
        return {"score": float(np.mean([logits[0] for _, logits in outputs]))}

    def submitted(self, example: Example, answer: Answer) -> Any:
        return answer

    def share(self, example: Example, answer: Answer) -> tuple[float, float]:
        return -abs(answer["score"] - example["label"]), 1.0

    def trivial_answers(
        self, train: Sequence[Example], examples: Sequence[Example]
    ) -> list[Answer]:
        targets = [example["label"] for example in train]
        return [{"score": sum(targets) / len(targets)}] * len(examples)

    def label_pairs(self, example: Example, answer: Answer) -> list[tuple[str, str]]:
        return []


class Similarity(Regression):
    """A pair of texts gets a number, as in STS-B. Logits [1]."""

    name = "similarity"
    fields: ClassVar = Pair.fields
    aliases: ClassVar = {**Pair.aliases, "label": ("score",)}
    order: ClassVar = Pair.order
    sample: ClassVar = Pair.sample
    text_form = Pair.text_form

    def from_text(self, line: str) -> Example | None:
        return Pair.from_text(self, line)  # type: ignore[arg-type]


def _marked(text: Any, target: dict[str, Any]) -> str:
    """A text of WSC with its noun in brackets and its pronoun between underscores."""
    kinds = {"span1_index": int, "span1_text": str, "span2_index": int, "span2_text": str}
    wrong = [key for key, kind in kinds.items() if not isinstance(target.get(key), kind)]
    if wrong or not isinstance(text, str):
        raise TaskError(f"key target: expected {', '.join(kinds)} of a text, found {target!r:.60}")
    signs: list[tuple[int, bool, int, str]] = []
    for name, (opening, closing) in ("span1", "[]"), ("span2", "__"):
        start, span = target[f"{name}_index"], target[f"{name}_text"]
        end = start + len(span)
        if start < 0 or not span or text[start:end] != span:
            raise TaskError(f"{span!r} does not stand at character {start} of the text")
        # Spans may touch, or one may lie in the other: then the inner one closes first.
        signs += [(end, False, -start, closing), (start, True, -end, opening)]
    places = sorted(signs)
    parts = itertools.pairwise([0, *(place for place, *_ in places), len(text)])
    return "".join(
        text[start:end] + sign
        for (start, end), sign in zip(parts, [*(sign for *_, sign in places), ""], strict=True)
    )
