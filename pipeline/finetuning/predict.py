"""Predictions of a fine-tuned head for lines of JSON or plain text."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.cpu import usable_cpus
from pipeline.errors import TaskError
from pipeline.finetuning import network as networks
from pipeline.finetuning.evaluation import Dataset, answers
from pipeline.finetuning.head_folder import read_results
from pipeline.finetuning.jsonl import Example, parse_object
from pipeline.finetuning.tasks import TASKS, Task
from pipeline.finetuning.tasks.base import TaskSetup, is_visible

LINES = 1024
"""Lines that are read, tokenized and answered at a time."""


def predict(
    folder: str, lines: Iterable[tuple[str, str]], batch: int = 32
) -> Iterator[dict[str, Any]]:
    """For each line, in order, its fields with the answer added as `prediction`.

    A line is JSON as `pipeline.finetuning.tasks` lists it, without the target, or plain text: the
    text (classification, ner), or two texts with a tab between (pair). The answer is

    | task | prediction |
    |---|---|
    | classification, pair | `label`, `probabilities` by label |
    | ner | `labels` of the tokens, `entities`: `text`, `type`, `start`, `end`, `probability` |
    | choice | `answer` (index), `choice` (text), `probabilities` |
    | span | `answer`, `candidates`: `text`, `start`, `end`, `probability` |

    where `start` and `end` count characters. A line without a visible character has the prediction
    None. Lines are pairs of (place, line), as `read_lines` yields them. Raises ExportError for a
    folder that fine-tuning did not make, TaskError for a malformed line.
    """
    torch.set_num_threads(min(torch.get_num_threads(), usable_cpus()))
    results = read_results(Path(folder))
    task = TASKS[results["task"]]
    setup = TaskSetup(networks.load_tokenizer(folder), results["labels"], results["length"])
    with networks.quiet():
        network: nn.Module = task.network.from_pretrained(folder, trust_remote_code=False)
    network.to(networks.pick_device())
    remaining = iter(lines)
    while chosen := list(itertools.islice(remaining, LINES)):
        parsed = [parse(task, line, place) for place, line in chosen]
        blank = [not each or bool(task.blank(each)) for each in parsed]
        for (place, _), example, skipped in zip(chosen, parsed, blank, strict=True):
            if not skipped and (reason := task.unfit(example, setup.tokenizer, setup.length)):
                raise TaskError(f"{place}: {reason}")
        shown = [each for each, skipped in zip(parsed, blank, strict=True) if not skipped]
        found = iter(answers(task, network, Dataset.of(task, shown, setup), batch, setup))
        for (_, line), example, skipped in zip(chosen, parsed, blank, strict=True):
            answer = None if skipped else next(found)
            yield (example or {"text": line}) | {"prediction": answer}


def parse(task: Task, line: str, place: str) -> Example:
    """An example without its target, from a line of JSON or of plain text; empty for a blank line.

    Raises TaskError for a line that is neither.
    """
    if not any(map(is_visible, line)):
        return {}
    if line.lstrip().startswith("{"):
        example = task.check_fields(parse_object(line, place), place)
        return {key: value for key, value in example.items() if key != task.target}
    if (found := task.from_text(line)) is None:
        raise TaskError(f"{place}: expected {task.text_form} with {', '.join(task.fields)}")
    return found
