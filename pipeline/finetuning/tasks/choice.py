"""Multiple choice: which of several answers fits the context and the question."""

import itertools
from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any, ClassVar

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from pipeline.errors import TaskError
from pipeline.finetuning.examples.features import Feature, FeatureBatch, Tokens
from pipeline.finetuning.examples.jsonl import Example, require, without
from pipeline.finetuning.tasks.base import Answer, Outputs, Task, TaskSetup, softmax
from pipeline.finetuning.tasks.cells import whole

GROUP = "blank_group"
"""Key of questions about one list of choices, of which each answers one question at most. They have
the same value there."""
SPECIAL = 3
"""[CLS] and two [SEP]."""


class Choice(Task):
    """A choice's input is [CLS] context [SEP] question choice [SEP]. Logits [C].

    Where that is too long, first the end of the context is left out, then the beginning of the
    question; a choice stays whole. All choices of an example see the same part of the context. A
    question with a blank for the choices has a field `after`, the text behind the blank.
    """

    name = "choice"
    network = transformers.AutoModelForMultipleChoice
    metric = "accuracy"
    fields: ClassVar = {"context": str, "question": str, "choices": list}
    target = "answer"
    answer_form: ClassVar = {"answer": int, "choice": str, "probabilities": [float]}
    scored_by = "accuracy"
    trivial = "most frequent place"
    sample: ClassVar = {
        "context": "他去了北京。",
        "question": "他去了哪里？",
        "choices": ["上海", "北京"],
    }
    multiple_choice = True
    has_windows = False
    aliases: ClassVar = {
        "context": ("article", "passage"),
        "choices": ("options", "choice"),
        "answer": ("label",),
    }
    has_labels = False
    may_be_blank = frozenset(("context", "question"))

    def published(self, record: Example) -> Example:
        """An answer may be a text (`unify`); an empty one is none. C3's context is lines."""
        found = super().published(record)
        choices = found.get("choices")
        if isinstance(choices, dict) and sorted(choices) == [*ascii_uppercase[: len(choices)]]:
            found = found | {"choices": [choices[letter] for letter in sorted(choices)]}
        lines = found.get("context")
        if isinstance(lines, list) and lines and all(isinstance(each, str) for each in lines):
            found = found | {"context": "\n".join(lines)}
        answer = found.get("answer")
        if isinstance(answer, str) and not answer.strip():  # Hugging Face's test set of C3
            return without(found, "answer")
        return found

    def submitted_by_id(self, example: Example) -> bool:
        """ChID names its blanks; C3's `id` names the context, which has several questions."""
        return str(example.get("id")).startswith("#idiom")

    def submitted(self, example: Example, answer: Answer) -> Any:
        return answer["answer"] if self.submitted_by_id(example) else {"label": answer["answer"]}

    def check_fields(self, example: Example, place: str) -> Example:
        example = super().check_fields(example, place)
        if not example["choices"]:
            raise TaskError(f"{place}, key choices: expected a list of strings that are not empty")
        return example

    def nothing_to_learn(self, examples: list[Example]) -> str:
        if any(len(example["choices"]) > 1 for example in examples):
            return ""
        return "no example has two choices"

    def identity(self, example: Example) -> Any:
        """C3's `id` names the context; it has several questions, and one may be asked twice."""
        seen = example.get("id"), example["question"], example["choices"]
        return None if seen[0] is None else seen

    def unfit(self, example: Example, tokenizer: PreTrainedTokenizerBase, length: int) -> str:
        longest = max(map(len, _ids(example["choices"], tokenizer)))
        if longest <= length - SPECIAL:
            return ""
        return (
            f"a choice has {longest} tokens, and data.length={length} leaves room for "
            f"{length - SPECIAL}; raise it, or the choices cannot be told apart"
        )

    def unify(self, examples: list[Example], path: str, notes: list[str]) -> None:
        """Answers that are texts become indices: all are texts of choices, numbers or letters.

        Where choices are numbers, the answer 2 may be either; the other answers tell.
        """
        read = [_readings(each) for each in examples if isinstance(each["answer"], str)]
        ways = [way for way in ("text", "index") if all(way in each for each in read)]
        if len(ways) > 1 and all(each["text"] == each["index"] for each in read):
            ways = ways[:1]
        if not ways and all("letter" in each for each in read):
            ways = ["letter"]
        if len(ways) != 1:
            what = "either" if ways else "some only the one, some only the other"
            raise TaskError(
                f"{path}, key answer: may be the texts, indices or letters of choices ({what}); "
                "write indices, counted from 0, as numbers"
            )
        for example in examples:
            if isinstance(example["answer"], str):
                example["answer"] = _readings(example)[ways[0]]

    def advice_without_targets(self, example: Example) -> str:
        if self.submitted_by_id(example):
            return "the answers of train.json are read from a file train_answer.json beside it"
        return super().advice_without_targets(example)

    def check_target(self, example: Example, place: str) -> None:
        if "answer" in example:
            example["answer"] = whole(example["answer"])
        require(example, "answer", (int, str), place, self.name)
        if isinstance(example["answer"], str):
            if not _readings(example):
                raise TaskError(
                    f"{place}: key answer: {example['answer']!r} is none of the choices"
                )
        elif not 0 <= example["answer"] < len(example["choices"]):
            raise TaskError(
                f"{place}, key answer: {example['answer']} is not the index of a choice "
                f"(there are {len(example['choices'])}, counted from 0)"
            )

    def features(self, examples: Sequence[Example], setup: TaskSetup) -> list[Feature]:
        texts = []
        for example in examples:
            context, question = setup.clean(example["context"]), setup.clean(example["question"])
            behind = setup.clean(example.get("after", ""))
            choices = list(map(setup.clean, example["choices"]))
            texts.append([context, behind, *choices, *(question + choice for choice in choices)])
        tokenized = iter(_ids([text for each in texts for text in each], setup.tokenizer))
        features = []
        for i, example in enumerate(examples):
            number = len(example["choices"])
            given, after, *both = itertools.islice(tokenized, 2 + 2 * number)
            inputs = _inputs(given, both[:number], both[number:], after, setup)
            target = [example["answer"]] if "answer" in example else []
            features.append(Feature(i, inputs, target, []))
        return features

    def logits(self, output: Any, batch: FeatureBatch) -> Tensor:
        lowest = torch.finfo(output.logits.dtype).min
        return output.logits.masked_fill(batch.choices == 0, lowest)

    def answers(
        self, examples: Sequence[Example], outputs: Sequence[Outputs], setup: TaskSetup
    ) -> list[Answer]:
        """An answer for each example. In a group (`GROUP`), no choice is given twice.

        The choices are those with the highest product of probabilities, as far as they suffice.
        """
        found = super().answers(examples, outputs, setup)
        groups: dict[tuple[str, ...], list[int]] = {}
        for number, example in enumerate(examples):
            if GROUP in example:
                key = str(example[GROUP]), *example["choices"]
                groups.setdefault(key, []).append(number)
        for (_, *choices), numbers in groups.items():
            from scipy.optimize import linear_sum_assignment  # few served heads see a group

            shares = np.array([found[number]["probabilities"] for number in numbers])
            scores = np.log(np.maximum(shares, np.finfo(np.float32).tiny))
            for row, best in zip(*linear_sum_assignment(scores, maximize=True), strict=True):
                found[numbers[row]] |= {"answer": int(best), "choice": choices[best]}
        return found

    def answer(self, example: Example, outputs: Outputs, setup: TaskSetup) -> Answer:
        shares = softmax(outputs[0][1][: len(example["choices"])])
        best = int(shares.argmax())
        choice = example["choices"][best]
        return {"answer": best, "choice": choice, "probabilities": shares.tolist()}

    def confidences(self, example: Example, answer: Answer) -> list[tuple[float, bool]]:
        """That of the choice that was given, which in a group may not be the likeliest."""
        given = answer["answer"]
        shares = answer.get("probabilities")
        return [(shares[given], given == example["answer"])] if shares else []


def _readings(example: Example) -> dict[str, int]:
    """What an answer that is a text may mean: the `text` of a choice, its `index` or `letter`."""
    choices = [each.strip() for each in example["choices"]]
    answer = example["answer"].strip()
    found = {"text": choices.index(answer)} if answer in choices else {}
    if answer.isdecimal() and int(answer) < len(choices):
        found["index"] = int(answer)
    if len(answer) == 1 and answer in ascii_uppercase[: len(choices)]:
        found["letter"] = ascii_uppercase.index(answer)
    return found


def _ids(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []


def _inputs(
    context: list[int],
    choices: list[list[int]],
    questions: list[list[int]],
    after: list[int],
    setup: TaskSetup,
) -> list[Tokens]:
    """One input for each choice; `questions` are those with the choice behind them.

    What stands `after` a blank takes half of what the choice leaves, or what the question leaves.
    """
    room = setup.length - SPECIAL
    choice = min(room, max(map(len, choices)))
    after = after[: max((room - choice) // 2, room - max(map(len, questions)))]
    room -= len(after)
    # Question and choice may take half of the room; more where the context leaves it to them, and
    # a long choice still leaves a quarter to the question.
    limit = max(room // 2, room - len(context), choice + min(room - choice, room // 4))
    questions = [ids[-limit:] + after for ids in questions]
    context = context[: room + len(after) - max(map(len, questions))]
    cls, sep = setup.tokenizer.cls_token_id, setup.tokenizer.sep_token_id
    first = [cls, *context, sep]
    return [
        Tokens([*first, *ids, sep], [0] * len(first) + [1] * (len(ids) + 1)) for ids in questions
    ]
