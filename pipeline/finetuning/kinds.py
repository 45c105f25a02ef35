"""The five kinds of task: how examples become rows, and logits become answers and scores.

Logits reach the loss as [..., K] with targets [...]; a target of -100 counts nowhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor
from transformers import BatchEncoding, PreTrainedTokenizerBase

from pipeline.finetuning import metrics
from pipeline.finetuning.entities import best_labels, entities_of
from pipeline.finetuning.rows import IGNORED, Row, RowBatch, Tokens
from pipeline.finetuning.tasks import Example

Answer = dict[str, Any]
Logits = NDArray[np.floating]
LONGEST_ANSWER = 64
"""Tokens of an answer span at most."""
CANDIDATES = 5
"""Answer spans that a prediction lists."""


class Setup(NamedTuple):
    """What a fine-tuned network is used with."""

    tokenizer: PreTrainedTokenizerBase
    labels: Sequence[str]
    """Names of the classes, or of the token labels; none for choices and spans."""
    length: int
    """Tokens of an input at most."""


class Kind(ABC):
    """A kind of task."""

    network: ClassVar[Any]
    """Auto class of the network."""
    metric: ClassVar[str]
    """The score that picks the best epoch."""
    many: ClassVar[bool] = False
    """Whether an example is several inputs, one a choice."""

    @abstractmethod
    def rows(self, examples: Sequence[Example], setup: Setup) -> list[Row]:
        """What the network sees, in the order of the examples."""

    def logits(self, output: Any, batch: RowBatch) -> Tensor:
        """[..., K] from the network's output."""
        return output.logits

    @abstractmethod
    def answer(
        self, example: Example, rows: Sequence[Row], logits: Sequence[Logits], setup: Setup
    ) -> Answer:
        """The answer for an example, from its rows and their logits."""

    @abstractmethod
    def scores(self, examples: Sequence[Example], answers: Sequence[Answer]) -> dict[str, float]:
        """Scores by name, `metric` first."""


class Classification(Kind):
    """One label for a text or a pair of texts. Logits [K]."""

    network = transformers.AutoModelForSequenceClassification
    metric = "accuracy"

    def __init__(self, *fields: str) -> None:
        self._fields = fields

    def rows(self, examples: Sequence[Example], setup: Setup) -> list[Row]:
        texts = [[example[field] for example in examples] for field in self._fields]
        encoded = _encode(setup, *texts, truncation="longest_first")
        number = {label: i for i, label in enumerate(setup.labels)}
        targets = [[number[each["label"]]] if "label" in each else [] for each in examples]
        return [Row(i, [_tokens(encoded, i)], target, []) for i, target in enumerate(targets)]

    def answer(
        self, example: Example, rows: Sequence[Row], logits: Sequence[Logits], setup: Setup
    ) -> Answer:
        shares = _softmax(logits[0])
        named = dict(zip(setup.labels, shares.tolist(), strict=True))
        return {"label": setup.labels[int(shares.argmax())], "probabilities": named}

    def scores(self, examples: Sequence[Example], answers: Sequence[Answer]) -> dict[str, float]:
        truth = [example["label"] for example in examples]
        return metrics.classification(truth, [answer["label"] for answer in answers])


class Entities(Kind):
    """A BIO label for every word (in Chinese, character). Logits [S, K].

    A word's first piece bears its label. Words that tokenize to nothing (white space) are O. What
    exceeds the length goes on in a further row, so every word gets a label.
    """

    network = transformers.AutoModelForTokenClassification
    metric = "f1"

    def rows(self, examples: Sequence[Example], setup: Setup) -> list[Row]:
        words = sorted({word for example in examples for word in example["tokens"]})
        ids = setup.tokenizer(words, add_special_tokens=False)["input_ids"] if words else []
        pieces = dict(zip(words, ids, strict=True))
        number = {label: i for i, label in enumerate(setup.labels)}
        rows = []
        for i, example in enumerate(examples):
            labels = [number[label] for label in example.get("labels", [])]
            for start, stop in _windows([len(pieces[word]) for word in example["tokens"]], setup):
                rows.append(self._row(i, example["tokens"], labels, pieces, (start, stop), setup))
        return rows

    def _row(
        self,
        number: int,
        words: Sequence[str],
        labels: Sequence[int],
        pieces: dict[str, list[int]],
        window: tuple[int, int],
        setup: Setup,
    ) -> Row:
        ids, origin = [setup.tokenizer.cls_token_id], [(-1, -1)]
        target = [IGNORED]
        for place in range(*window):
            found = pieces[words[place]][: setup.length - 2]
            for first, piece in enumerate(found):
                ids.append(piece)
                origin.append((-1, -1) if first else (place, place + 1))
                target.append(IGNORED if first or not labels else labels[place])
        ids.append(setup.tokenizer.sep_token_id)
        origin.append((-1, -1))
        target.append(IGNORED)
        return Row(number, [Tokens(ids, [0] * len(ids))], target, origin)

    def answer(
        self, example: Example, rows: Sequence[Row], logits: Sequence[Logits], setup: Setup
    ) -> Answer:
        outside = np.where([label == "O" for label in setup.labels], 0.0, -1e4)
        grid = np.tile(outside, (len(example["tokens"]), 1))
        for row, each in zip(rows, logits, strict=True):
            # Logits go on over the padding.
            for (place, _), values in zip(row.origin, each[: len(row.origin)], strict=True):
                if place >= 0:
                    grid[place] = values
        grid = _log_softmax(grid)
        chosen = best_labels(grid, setup.labels)
        labels = [setup.labels[i] for i in chosen]
        shares = np.exp(grid[np.arange(len(chosen)), chosen])
        return {"labels": labels, "entities": entities_of(example["tokens"], labels, shares)}

    def scores(self, examples: Sequence[Example], answers: Sequence[Answer]) -> dict[str, float]:
        truth = [example["labels"] for example in examples]
        return metrics.entities(truth, [answer["labels"] for answer in answers])


class Choice(Kind):
    """One of several choices; an input is [CLS] context [SEP] question choice [SEP]. Logits [C]."""

    network = transformers.AutoModelForMultipleChoice
    metric = "accuracy"
    many = True

    def rows(self, examples: Sequence[Example], setup: Setup) -> list[Row]:
        flat = [(example, choice) for example in examples for choice in example["choices"]]
        contexts = [example["context"] for example, _ in flat]
        questions = [example["question"] + choice for example, choice in flat]
        encoded = _encode(setup, contexts, questions, truncation="longest_first")
        rows, start = [], 0
        for i, example in enumerate(examples):
            stop = start + len(example["choices"])
            inputs = [_tokens(encoded, place) for place in range(start, stop)]
            target = [example["answer"]] if "answer" in example else []
            rows.append(Row(i, inputs, target, []))
            start = stop
        return rows

    def logits(self, output: Any, batch: RowBatch) -> Tensor:
        lowest = torch.finfo(output.logits.dtype).min
        return output.logits.masked_fill(batch.choices == 0, lowest)

    def answer(
        self, example: Example, rows: Sequence[Row], logits: Sequence[Logits], setup: Setup
    ) -> Answer:
        shares = _softmax(logits[0][: len(example["choices"])])
        best = int(shares.argmax())
        choice = example["choices"][best]
        return {"answer": best, "choice": choice, "probabilities": shares.tolist()}

    def scores(self, examples: Sequence[Example], answers: Sequence[Answer]) -> dict[str, float]:
        right = [e["answer"] == a["answer"] for e, a in zip(examples, answers, strict=True)]
        return {"accuracy": sum(right) / len(right)}


class Span(Kind):
    """A stretch of the context; long contexts are read in windows that overlap. Logits [2, S]."""

    network = transformers.AutoModelForQuestionAnswering
    metric = "f1"

    def rows(self, examples: Sequence[Example], setup: Setup) -> list[Row]:
        encoded = _encode(
            setup,
            _openings([example["question"] for example in examples], setup),
            [example["context"] for example in examples],
            truncation="only_second",
            # A window holds more than what it shares with the one before, however long a question.
            stride=min(setup.length // 3, setup.length - setup.length // 2 - 4),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        rows = []
        for place, number in enumerate(encoded["overflow_to_sample_mapping"]):
            origin = [
                offsets if segment == 1 else (-1, -1)
                for offsets, segment in zip(
                    encoded["offset_mapping"][place], encoded.sequence_ids(place), strict=True
                )
            ]
            target = _span_target(origin, examples[number].get("answers"))
            rows.append(Row(number, [_tokens(encoded, place)], target, origin))
        return rows

    def logits(self, output: Any, batch: RowBatch) -> Tensor:
        both = torch.stack([output.start_logits, output.end_logits], dim=1)
        padding = batch.inputs["attention_mask"][:, None] == 0
        return both.masked_fill(padding, torch.finfo(both.dtype).min)

    def answer(
        self, example: Example, rows: Sequence[Row], logits: Sequence[Logits], setup: Setup
    ) -> Answer:
        found: dict[tuple[int, int], float] = {}
        for row, (start, end) in zip(rows, logits, strict=True):
            for span, score in _best_spans(row, start, end):
                found[span] = max(score, found.get(span, -np.inf))
        ranked = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:CANDIDATES]
        if not ranked:
            return {"answer": "", "candidates": []}
        shares = _softmax(np.array([score for _, score in ranked]))
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


KINDS: dict[str, Kind] = {
    "classification": Classification("text"),
    "pair": Classification("sentence1", "sentence2"),
    "ner": Entities(),
    "choice": Choice(),
    "span": Span(),
}


def _encode(setup: Setup, *texts: list[str], **options: Any) -> BatchEncoding:
    return setup.tokenizer(
        *texts,
        max_length=setup.length,
        return_token_type_ids=True,
        return_attention_mask=False,
        **options,
    )


def _openings(questions: list[str], setup: Setup) -> list[str]:
    """As much of each question as leaves half of the room to the context."""
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


def _tokens(encoded: BatchEncoding, place: int) -> Tokens:
    return Tokens(encoded["input_ids"][place], encoded["token_type_ids"][place])


def _windows(sizes: Sequence[int], setup: Setup) -> list[tuple[int, int]]:
    """Ranges of words that fit into `length` with [CLS] and [SEP]."""
    room, windows, start, used = setup.length - 2, [], 0, 0
    for place, size in enumerate(min(size, room) for size in sizes):
        if used + size > room:
            windows.append((start, place))
            start, used = place, 0
        used += size
    return [*windows, (start, len(sizes))]


def _span_target(
    origin: Sequence[tuple[int, int]], answers: Sequence[dict[str, Any]] | None
) -> list[int]:
    """First and last token of the first answer; [CLS] twice where the window lacks a part of it."""
    if answers is None:
        return []
    begin, finish = answers[0]["start"], answers[0]["start"] + len(answers[0]["text"])
    inside = [i for i, (start, end) in enumerate(origin) if begin < end and 0 <= start < finish]
    whole = inside and origin[inside[0]][0] <= begin and origin[inside[-1]][1] >= finish
    return [inside[0], inside[-1]] if whole else [0, 0]


def _best_spans(row: Row, start: Logits, end: Logits) -> list[tuple[tuple[int, int], float]]:
    """The best character ranges of a window, with their scores."""
    places = np.flatnonzero([first >= 0 for first, _ in row.origin])
    if not places.size:
        return []
    scores = start[places][:, None] + end[places][None, :]
    distance = np.arange(len(places))[None, :] - np.arange(len(places))[:, None]
    scores = np.where((distance >= 0) & (distance < LONGEST_ANSWER), scores, -np.inf).ravel()
    best = np.argpartition(-scores, min(CANDIDATES, len(scores) - 1))[:CANDIDATES]
    spans = []
    for place in best[np.isfinite(scores[best])]:
        first, last = places[place // len(places)], places[place % len(places)]
        spans.append(((row.origin[first][0], row.origin[last][1]), float(scores[place])))
    return spans


def _log_softmax(values: Logits) -> Logits:
    shifted = values - values.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _softmax(values: Logits) -> Logits:
    return np.exp(_log_softmax(values))
