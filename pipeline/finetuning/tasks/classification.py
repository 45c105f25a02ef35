"""A label for a text, or for a pair of texts."""

import itertools
import json
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import transformers

from pipeline.errors import TaskError
from pipeline.finetuning.examples.features import Feature
from pipeline.finetuning.examples.jsonl import Example, require, without
from pipeline.finetuning.tasks.base import (
    Answer,
    Outputs,
    Task,
    TaskSetup,
    by_label,
    encode,
    log_softmax,
    softmax,
    tokens_at,
)
from pipeline.finetuning.tasks.cells import whole

MANY = 20
"""Labels above which one for every second example is told."""


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
    scored_with_labels = True
    aliases: ClassVar = {
        "text": ("sentence", "text_a", "content", "review", "query"),
        "label": ("class",),
    }
    sample: ClassVar = {"text": "房间很干净。"}

    def published(self, record: Example) -> Example:
        """CLUE's WSC marks its two spans in the text."""
        if isinstance(record.get("target"), dict) and "span1_index" in record["target"]:
            record = {**record, "text": _marked(record.get("text"), record["target"])}
        return super().published(record)

    def unify(self, examples: list[Example], path: str, notes: list[str]) -> None:
        labels = self.labels_of(examples)
        if len(labels) > MANY and 2 * len(labels) > len(examples):
            notes.append(
                f"{path}: {len(examples)} examples have {len(labels)} labels, such as "
                f"{min(labels)!r:.60}; is this the column of the labels?"
            )

    def check_target(self, example: Example, place: str) -> None:
        given = example.get("label")
        if isinstance(given, list) and len(given) == 1:  # doccano's
            example["label"] = given[0]
        elif isinstance(given, list) and given:
            raise TaskError(
                f"{place}, key label: {given!r:.60} are several labels; finetune.task=multilabel "
                "learns them"
            )
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
        named = by_label(setup.labels, shares)
        return {"label": setup.labels[int(shares.argmax())], "probabilities": named}


class Pair(Classification):
    """A pair of texts gets one label. Logits [K]. What is too long loses its end."""

    name = "pair"
    has_windows = False
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
