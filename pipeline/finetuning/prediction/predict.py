"""Predictions of a fine-tuned head for lines of JSON or plain text, and for examples."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.corpus.decoding.transcoding import BAD
from pipeline.cpu import usable_cpus
from pipeline.errors import ExportError, TaskError
from pipeline.export.lineage import text_cleaner
from pipeline.finetuning import loading
from pipeline.finetuning.examples.jsonl import JSON, Example, parse_object, without
from pipeline.finetuning.judging.evaluation import Dataset, answers
from pipeline.finetuning.network import TaskNetwork
from pipeline.finetuning.prediction.head_folder import read_results
from pipeline.finetuning.tasks import TASKS, Task
from pipeline.finetuning.tasks.base import LONGEST_ANSWER, Answer, TaskSetup
from pipeline.finetuning.tasks.cells import is_visible
from pipeline.precision import pick_device

LINES = 1024
"""Lines that are read, tokenized and answered at a time."""
BATCH = 32


class Head(TaskNetwork):
    """A fine-tuned head that is ready to answer.

    It computes as it was trained and scored; in another precision, the third digit differs.
    """

    @classmethod
    def load(cls, folder: str) -> "Head":
        """The head in a folder. Raises ExportError for one that fine-tuning did not make."""
        torch.set_num_threads(min(torch.get_num_threads(), usable_cpus()))
        results = read_results(Path(folder))
        task = TASKS[results["task"]]
        setup = TaskSetup(
            tokenizer=loading.load_tokenizer(folder),
            labels=results["labels"],
            length=results["length"],
            stride=results.get("stride"),
            clean=text_cleaner(folder),
            longest=results.get("longest", LONGEST_ANSWER),
            unanswerable=results.get("unanswerable", False),
            no_answer=results.get("no_answer", 0.0),
        )
        network, report = loading.load(task, folder)
        if report["missing_keys"]:  # transformers draws them at random
            raise ExportError(
                f"{folder}: {len(report['missing_keys'])} weights of the head are missing, first "
                f"{min(report['missing_keys'])}; its answers would be random"
            )
        device, precision = pick_device(), results.get("precision", "auto")
        if task.problem_type == "regression":  # of 2019, bf16 makes 2016
            precision = "fp32"
        if precision == "fp16" and device.type != "cuda":  # as in training: only GPUs compute in it
            precision = "auto"
        return cls(task, setup, network.to(device), precision)

    def example(self, line: str | Example, place: str) -> Example:
        """An example without its target, from JSON, plain text or an object.

        Empty for a blank line. Raises TaskError for what is no example, or cannot be shown whole.
        """
        tokenizer = self.setup.tokenizer
        example = parse(self.task, line, place, lambda each: self.task.cut(each, tokenizer))
        shown = example and not self.task.blank(example)
        if shown and (reason := self.task.unfit(example, tokenizer, self.setup.length)):
            raise TaskError(f"{place}: {reason}")
        return example

    def answers(self, examples: Sequence[Example], batch: int = BATCH) -> list[Answer | None]:
        """An answer for each example; None for one without a visible character."""
        are_shown = [bool(each) and not self.task.blank(each) for each in examples]
        shown = list(itertools.compress(examples, are_shown))
        dataset = Dataset.of(self.task, shown, self.setup)
        found = iter(answers(self, dataset, batch))
        return [next(found) if is_shown else None for is_shown in are_shown]


def predict(
    folder: str, lines: Iterable[tuple[str, str | Example]], batch: int = BATCH
) -> Iterator[dict[str, Any]]:
    """For each line, in order, its fields with the answer added as `prediction`.

    A line is JSON as `pipeline.finetuning.tasks` lists it, without the target, or plain text: the
    text, or two texts with a tab between (pair, similarity); not for choice and span. The answer is

    | task | prediction |
    |---|---|
    | classification, pair | `label`, `probabilities` by label |
    | multilabel | `labels`, `probabilities` by label |
    | regression, similarity | `score` |
    | ner | `labels` of the tokens, `entities`: `text`, `type`, `start`, `end`, `probability` |
    | choice | `answer` (index), `choice` (text), `probabilities` |
    | span | `answer`, `candidates`: `text`, `start`, `end`, `probability` |

    where `start` and `end` count characters. Of more than 200 labels, the likeliest 200 have their
    probabilities. A line without a visible character has the prediction None. Lines are pairs of
    (place, line), as `read_lines` yields them; a line may be an object already. Raises ExportError
    for a folder that fine-tuning did not make, TaskError for a malformed line.
    """
    head = Head.load(folder)
    remaining = iter(lines)
    while chosen := list(itertools.islice(remaining, LINES)):
        yield from answered(head, chosen, batch)


def answered(
    head: Head, lines: Sequence[tuple[str, str | Example]], batch: int
) -> list[dict[str, Any]]:
    """What `predict` yields for a block of lines."""
    examples = [head.example(line, place) for place, line in lines]
    return [
        (example or {"text": line}) | {"prediction": answer}
        for (_, line), example, answer in zip(
            lines, examples, head.answers(examples, batch), strict=True
        )
    ]


def parse(
    task: Task,
    line: str | Example,
    place: str,
    cut: Callable[[Example], Example] = lambda example: example,
) -> Example:
    """An example without its target, from an object, a line of JSON or of plain text.

    Args:
        cut: cuts a text into words, as `Task.cut`.

    Empty for a blank line. Raises TaskError for a line that is neither.
    """
    if isinstance(line, str):
        if not any(is_visible(each) or each == BAD for each in line):
            return {}
        if not JSON.match(line):
            if (found := task.from_text(line)) is None:
                raise TaskError(f"{place}: expected {task.text_form} with {', '.join(task.fields)}")
            return task.check_fields(cut(found), place)
        line = parse_object(line, place)
    found = task.example(task.without_target(line), place)
    if "prediction" in found:
        raise TaskError(f"{place}: the answer would replace the key prediction; rename it")
    for key, kind in (task.served | task.fields).items():
        if kind is str and found.get(key, "") is None:  # a text that is null is blank
            found = found | {key: ""}
    example = task.check_fields(cut(found), place)
    return without(example, task.target)
