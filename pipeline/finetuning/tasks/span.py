"""Answer spans: which characters of a context answer the question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import transformers
from torch import Tensor

from pipeline.errors import TaskError
from pipeline.finetuning import metrics
from pipeline.finetuning.features import Feature, FeatureBatch
from pipeline.finetuning.jsonl import Example, require
from pipeline.finetuning.tasks.base import (
    Answer,
    Logits,
    Outputs,
    Task,
    TaskSetup,
    encode,
    softmax,
    tokens_at,
)

LONGEST_ANSWER = 64
"""Largest number of tokens in an answer span."""
CANDIDATES = 5
"""Answer spans that a prediction lists."""


class Span(Task):
    """A span of the context; long contexts are read in windows that overlap. Logits [2, S]."""

    name = "span"
    network = transformers.AutoModelForQuestionAnswering
    metric = "f1"
    fields: ClassVar = {"context": str, "question": str}
    target = "answers"
    has_labels = False

    def check_target(self, example: Example, place: str) -> None:
        require(example, "answers", list, place, self.name)
        if not example["answers"]:
            raise TaskError(f"{place}, key answers: expected at least one answer")
        for answer in example["answers"]:
            _check_answer(answer, example["context"], place)

    def features(self, examples: Sequence[Example], setup: TaskSetup) -> list[Feature]:
        encoded = encode(
            setup,
            _shorten_questions([example["question"] for example in examples], setup),
            [example["context"] for example in examples],
            truncation="only_second",
            # A window must hold more than its overlap with the previous one, even after the
            # longest question.
            stride=min(setup.length // 3, setup.length - setup.length // 2 - 4),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        features = []
        for place, number in enumerate(encoded["overflow_to_sample_mapping"]):
            origin = [
                offsets if segment == 1 else (-1, -1)
                for offsets, segment in zip(
                    encoded["offset_mapping"][place], encoded.sequence_ids(place), strict=True
                )
            ]
            target = _span_target(origin, examples[number].get("answers"))
            features.append(Feature(number, [tokens_at(encoded, place)], target, origin))
        return features

    def logits(self, output: Any, batch: FeatureBatch) -> Tensor:
        both = torch.stack([output.start_logits, output.end_logits], dim=1)
        padding = batch.inputs["attention_mask"][:, None] == 0
        return both.masked_fill(padding, torch.finfo(both.dtype).min)

    def answer(self, example: Example, outputs: Outputs, setup: TaskSetup) -> Answer:
        found: dict[tuple[int, int], float] = {}
        for feature, (start, end) in outputs:
            for span, score in _best_spans(feature, start, end):
                found[span] = max(score, found.get(span, -np.inf))
        ranked = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:CANDIDATES]
        if not ranked:
            return {"answer": "", "candidates": []}
        shares = softmax(np.array([score for _, score in ranked]))
        candidates = [
            {
                "text": example["context"][start:end],
                "start": start,
                "end": end,
                "probability": share,
            }
            for ((start, end), _), share in zip(ranked, shares.tolist(), strict=True)
        ]
        return {"answer": candidates[0]["text"], "candidates": candidates}

    def scores(self, examples: Sequence[Example], answers: Sequence[Answer]) -> dict[str, float]:
        truth = [[each["text"] for each in example["answers"]] for example in examples]
        return metrics.spans(truth, [answer["answer"] for answer in answers])


def _check_answer(answer: Any, context: str, place: str) -> None:
    if not isinstance(answer, dict):
        raise TaskError(f"{place}, key answers: expected objects with text and start")
    require(answer, "text", str, place, "answers")
    require(answer, "start", int, place, "answers")
    text, start = answer["text"], answer["start"]
    found = context[start : start + len(text)]
    if not text or found != text:
        raise TaskError(
            f"{place}, key answers: {text!r} does not stand at character {start} of the context, "
            f"which reads {found!r} there"
        )


def _shorten_questions(questions: list[str], setup: TaskSetup) -> list[str]:
    """The beginning of each question that leaves half of the length to the context."""
    # A syllable of Hangul is up to three tokens, of which the last kept may be the first.
    room = setup.length // 2 - 2
    encoded = setup.tokenizer(
        questions,
        add_special_tokens=False,
        truncation=True,
        max_length=room,
        return_offsets_mapping=True,
    )
    ends = [max((end for _, end in offsets), default=0) for offsets in encoded["offset_mapping"]]
    return [question[:end] for question, end in zip(questions, ends, strict=True)]


def _span_target(
    origin: Sequence[tuple[int, int]], answers: Sequence[dict[str, Any]] | None
) -> list[int]:
    """First and last token of the first answer; [CLS] twice if the window does not hold all of it.

    Empty where there are no answers, as in a prediction.
    """
    if answers is None:
        return []
    begin, finish = answers[0]["start"], answers[0]["start"] + len(answers[0]["text"])
    inside = [i for i, (start, end) in enumerate(origin) if begin < end and 0 <= start < finish]
    whole = inside and origin[inside[0]][0] <= begin and origin[inside[-1]][1] >= finish
    return [inside[0], inside[-1]] if whole else [0, 0]


def _best_spans(
    feature: Feature, start: Logits, end: Logits
) -> list[tuple[tuple[int, int], float]]:
    """The best character ranges of a window, with their scores."""
    places = np.flatnonzero([first >= 0 for first, _ in feature.origin])
    if not places.size:
        return []
    scores = start[places][:, None] + end[places][None, :]
    distance = np.arange(len(places))[None, :] - np.arange(len(places))[:, None]
    scores = np.where((distance >= 0) & (distance < LONGEST_ANSWER), scores, -np.inf).ravel()
    best = np.argpartition(-scores, min(CANDIDATES, len(scores) - 1))[:CANDIDATES]
    spans = []
    for place in best[np.isfinite(scores[best])]:
        first, last = places[place // len(places)], places[place % len(places)]
        span = (feature.origin[first][0], feature.origin[last][1])
        spans.append((span, float(scores[place])))
    return spans
