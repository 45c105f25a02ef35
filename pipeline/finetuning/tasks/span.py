"""Answer spans: which characters of a context answer the question."""

import json
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.errors import TaskError
from pipeline.finetuning.examples.features import Feature, FeatureBatch
from pipeline.finetuning.examples.jsonl import Example, require, without
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
from pipeline.finetuning.tasks.cells import is_visible

FORM = 'a list in JSON, as [{"text": "北京", "start": 3}], or the text of one answer'
"""How a file gives answers, for messages."""
CANDIDATES = 5
"""Answer spans that a prediction lists."""
SENTENCE_ENDS = "。！？!?\n"


class Span(Task):
    """A span of the context; long contexts are read in windows that overlap. Logits [2, S].

    A question without an answer in the context has the span of [CLS], as has a window that does not
    show the answer (Devlin et al. 2019, section 4.3).
    """

    name = "span"
    network = transformers.AutoModelForQuestionAnswering
    metric = "f1"
    fields: ClassVar = {"context": str, "question": str}
    target = "answers"
    answer_form: ClassVar = {
        "answer": str,
        "candidates": [{"text": str, "start": int, "end": int, "probability": float}],
    }
    scored_by = "spans"
    trivial = "first sentence"
    sample: ClassVar = {"context": "他去了北京。", "question": "他去了哪里？"}
    has_labels = False

    def published(self, record: Example) -> Example:
        """Answers of SQuAD and CMRC, which name their place `answer_start` or give none.

        PaddleNLP and tables have the places of texts in a key of their own.
        A question that is impossible has none, whatever stands there: CAIL's files say "true".
        """
        found = super().published(record)
        if str(found.get("is_impossible")).lower() == "true":
            return found | {"answers": []}
        answers = _listed(found.get("answers"))
        if not isinstance(answers, list) or not isinstance(found.get("context"), str):
            return found  # the checks of fields and target name what is wrong
        starts = found.get("answer_starts", found.get("answer_start"))
        starts = starts if isinstance(starts, list) else [starts]
        if len(starts) != len(answers):
            starts = [None] * len(answers)
        answers = [
            _placed(each, start, found["context"])
            for each, start in zip(answers, starts, strict=True)
        ]
        if answers and all(_is_missing(each) for each in answers):
            return without(found, "answers")
        return found | {"answers": answers}

    def submitted_by_id(self, example: Example) -> bool:
        return True

    def submitted(self, example: Example, answer: Answer) -> Any:
        return answer["answer"]

    def check_target(self, example: Example, place: str) -> None:
        require(example, "answers", list, place, self.name)
        if not example["answers"] and str(example.get("is_impossible")).lower() == "false":
            raise TaskError(f"{place}, key answers: expected at least one answer")
        example["answers"] = [
            _checked(answer, example["context"], place) for answer in example["answers"]
        ]

    def unify(self, examples: list[Example], path: str, notes: list[str]) -> None:
        number = sum(not each["answers"] for each in examples)
        if number and number == len(examples):
            raise TaskError(f"{path}, key answers: no question has an answer")
        if number:
            notes.append(
                f"{path}: {number} of {len(examples)} questions have no answer, so an empty text "
                "is the right one to them"
            )

    def has_unanswerable(self, examples: Sequence[Example]) -> bool:
        return not all(each["answers"] for each in examples)

    def features(self, examples: Sequence[Example], setup: TaskSetup) -> list[Feature]:
        encoded = encode(
            setup,
            _shorten_questions([example["question"] for example in examples], setup),
            [example["context"] for example in examples],
            truncation="only_second",
            # A window must hold more than its overlap with the previous one, even after the
            # longest question.
            stride=min(
                setup.length // 3 if setup.stride is None else setup.stride,
                setup.length - setup.length // 2 - 4,
            ),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        numbers = encoded["overflow_to_sample_mapping"]
        origins = [
            [
                offsets if segment == 1 else (-1, -1)
                for offsets, segment in zip(
                    encoded["offset_mapping"][place], encoded.sequence_ids(place), strict=True
                )
            ]
            for place in range(len(numbers))
        ]
        tokens: list[set[tuple[int, int]]] = [set() for _ in examples]
        for number, origin in zip(numbers, origins, strict=True):
            tokens[number].update(origin)
        return [
            Feature(
                number,
                [tokens_at(encoded, place)],
                _span_target(origin, tokens[number], examples[number].get("answers")),
                origin,
            )
            for place, (number, origin) in enumerate(zip(numbers, origins, strict=True))
        ]

    def target_sizes(self, examples: Sequence[Example], setup: TaskSetup) -> list[int]:
        sizes = [0 if each["answers"] else 1 for each in examples]
        for feature in self.features(examples, setup) if examples else []:
            first, last = feature.target
            if last:
                sizes[feature.example] = last - first + 1
        return sizes

    def logits(self, output: Any, batch: FeatureBatch) -> Tensor:
        both = torch.stack([output.start_logits, output.end_logits], dim=1)
        padding = batch.inputs["attention_mask"][:, None] == 0
        return both.masked_fill(padding, torch.finfo(both.dtype).min)

    def answer(self, example: Example, outputs: Outputs, setup: TaskSetup) -> Answer:
        found = _ranges(outputs, setup.longest)
        if setup.unanswerable:
            found[0, 0] = _no_answer(outputs) - setup.no_answer
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

    def tuned(
        self, setup: TaskSetup, examples: Sequence[Example], outputs: Sequence[Outputs]
    ) -> TaskSetup:
        """Set what no answer must score, as SQuAD 2.0's script does, for the best F1 of dev.

        It stays 0 where examples of both kinds are not there to tell it, or others are no better.
        """
        if not (setup.unanswerable and examples and self.has_unanswerable(examples)):
            return setup
        gaps, gains = [], []
        for example, own in zip(examples, outputs, strict=True):
            found = _ranges(own, setup.longest) or {(0, 0): -np.inf}
            start, end = max(found, key=found.__getitem__)
            gaps.append(_no_answer(own) - found[start, end])
            texts = "", example["context"][start:end]
            without, given = (self.share(example, {"answer": text})[0] for text in texts)
            gains.append(without - given)
        return setup._replace(no_answer=best_threshold(np.array(gaps), np.array(gains)))

    def finish(self, network: nn.Module, setup: TaskSetup) -> None:
        """Name the threshold in config.json, as BERT's scripts call it, for other programs."""
        config: Any = network.config
        if setup.unanswerable:
            config.null_score_diff_threshold = setup.no_answer

    def truth(self, example: Example) -> Any:
        return [each["text"] for each in example["answers"]] or [""]

    def share(self, example: Example, answer: Answer) -> tuple[float, float]:
        return self.scores([example], [answer])["f1"], 1.0

    def confidences(self, example: Example, answer: Answer) -> list[tuple[float, bool]]:
        right = self.share(example, answer)[0] == 1
        return [(each["probability"], right) for each in answer.get("candidates", [])[:1]]

    def trivial_answers(
        self, train: Sequence[Example], examples: Sequence[Example]
    ) -> list[Answer]:
        if 2 * sum(not each["answers"] for each in train) > len(train):
            return [{"answer": ""}] * len(examples)
        return [{"answer": _first_sentence(example["context"])} for example in examples]


def best_threshold(values: NDArray[np.floating], gains: NDArray[np.floating]) -> float:
    """The threshold above which values count so that the sum of their `gains` [N] is highest.

    0 where that is one of the best.
    """
    order = np.argsort(-values)
    sums = np.cumsum([0.0, *gains[order]])
    edges = np.array([values.max() + 1, *values[order], values.min() - 1])
    sums[np.diff(edges) == 0] = -np.inf  # no threshold parts equal values
    usual = int((values > 0).sum())
    best = max(
        range(len(sums)), key=lambda number: (round(float(sums[number]), 9), -abs(number - usual))
    )
    return 0.0 if best == usual else float(edges[best : best + 2].mean())


def _no_answer(outputs: Outputs) -> float:
    """The score of no answer: the lowest over the windows, of [CLS]."""
    return float(min(start[0] + end[0] for _, (start, end) in outputs))


def _ranges(outputs: Outputs, longest: int) -> dict[tuple[int, int], float]:
    """The best character ranges of each window, of at most `longest` tokens, with their scores."""
    found: dict[tuple[int, int], float] = {}
    for feature, (start, end) in outputs:
        for span, score in _best_spans(feature, start, end, longest):
            found[span] = max(score, found.get(span, -np.inf))
    return found


def _first_sentence(context: str) -> str:
    ends = [place for mark in SENTENCE_ENDS if (place := context.find(mark)) > 0]
    return context[: min(ends, default=len(context))]


def _listed(answers: Any) -> Any:
    """Answers as a list, where they are one answer, columns, or JSON in a cell of a table."""
    found = answers
    if isinstance(found, str) and found.strip():
        if found.lstrip()[0] not in "[{":
            return [found]
        try:
            found = json.loads(found)
        except (ValueError, RecursionError):
            raise TaskError(f"key answers: expected {FORM}; found {answers!r:.60}") from None
    if not isinstance(found, dict):
        return found
    columns = [each for each in found.values() if isinstance(each, list)]  # as in Hugging Face's
    if not columns:
        return [found] if found else []
    if len(columns) < len(found) or len({*map(len, columns)}) > 1:
        raise TaskError(f"key answers: expected lists of one length; found {answers!r:.60}")
    return [dict(zip(found, each, strict=True)) for each in zip(*columns, strict=True)]


def _placed(answer: Any, start: Any, context: str) -> Any:
    """An answer with `text` and `start`; of a text, that which is given, or the first place."""
    if isinstance(answer, str):
        given = int(start) if str(start).isdecimal() else context.find(answer)
        return {"text": answer, "start": given}
    if isinstance(answer, dict) and "answer_start" in answer and "start" not in answer:
        return without(answer, "answer_start") | {"start": answer["answer_start"]}
    return answer


def _is_missing(answer: Any) -> bool:
    """Whether an answer is the stand-in of a test set without answers, as CLUE's."""
    if not isinstance(answer, dict):
        return False
    text = answer.get("text")
    return text == "" or (isinstance(text, str) and text.startswith("FAKE_ANSWER"))


def _checked(answer: Any, context: str, place: str) -> dict[str, Any]:
    """An answer without the invisible characters at its ends, which no token stands for.

    Raises TaskError unless its text stands at its start in the context.
    """
    if not isinstance(answer, dict):
        raise TaskError(f"{place}, key answers: expected objects with text and start")
    require(answer, "text", str, place, "answers")
    require(answer, "start", int, place, "answers")
    text, start = answer["text"], answer["start"]
    found = context[start : start + len(text)] if start >= 0 else ""
    if not text or found != text:
        if text and text not in context:
            raise TaskError(f"{place}, key answers: {text!r} does not stand in the context")
        raise TaskError(
            f"{place}, key answers: {text!r} does not stand at character {start} of the context, "
            f"which reads {found!r} there"
            + (f"; it stands at character {context.find(text)}" if text else "")
        )
    seen = [i for i, character in enumerate(text) if is_visible(character)]
    if not seen:
        raise TaskError(f"{place}, key answers: {text!r} has no visible character")
    text = text[seen[0] : seen[-1] + 1]
    return answer | {"text": text, "start": start + seen[0]}


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
    origin: Sequence[tuple[int, int]],
    tokens: set[tuple[int, int]],
    answers: Sequence[dict[str, Any]] | None,
) -> list[int]:
    """First and last token of the first answer; [CLS] twice if the window does not hold all of it,
    or there is none.

    Empty where `answers` is None, as in a prediction. `origin` has the characters of the tokens
    of the window, `tokens` those of all windows of the example.
    """
    if not answers:
        return [] if answers is None else [0, 0]
    begin, finish = answers[0]["start"], answers[0]["start"] + len(answers[0]["text"])

    def inside(token: tuple[int, int]) -> bool:
        return token[0] >= 0 and begin < token[1] and token[0] < finish and token[0] < token[1]

    places = [i for i, token in enumerate(origin) if inside(token)]
    whole = {origin[i] for i in places} == set(filter(inside, tokens))
    return [places[0], places[-1]] if places and whole else [0, 0]


def _best_spans(
    feature: Feature, start: Logits, end: Logits, longest: int
) -> list[tuple[tuple[int, int], float]]:
    """The best character ranges of a window, of at most `longest` tokens, with their scores."""
    places = np.flatnonzero([first >= 0 for first, _ in feature.origin])
    if not places.size:
        return []
    scores = start[places][:, None] + end[places][None, :]
    distance = np.arange(len(places))[None, :] - np.arange(len(places))[:, None]
    scores = np.where((distance >= 0) & (distance < longest), scores, -np.inf).ravel()
    best = np.argpartition(-scores, min(CANDIDATES, len(scores) - 1))[:CANDIDATES]
    spans = []
    for place in best[np.isfinite(scores[best])]:
        first, last = places[place // len(places)], places[place % len(places)]
        span = (feature.origin[first][0], feature.origin[last][1])
        spans.append((span, float(scores[place])))
    return spans
