"""Predictions of a fine-tuned network: lines of JSON or plain text to answers."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import nn

from pipeline.errors import TaskError
from pipeline.finetuning import network as networks
from pipeline.finetuning import tasks
from pipeline.finetuning.finetune import Part, answer
from pipeline.finetuning.kinds import KINDS, Setup

BLOCK = 1024
"""Lines that are read, tokenized and answered at a time."""


def predict(
    folder: str, lines: Iterable[tuple[str, str]], batch: int = 32
) -> Iterator[dict[str, Any]]:
    """For each line, in order, its fields with the answer added as `prediction`.

    A line is JSON as `tasks` describes it, without what is to be predicted; or plain text: the text
    (classification, ner), or two texts with a tab between (pair). The answer is

    | task | prediction |
    |---|---|
    | classification, pair | `label`, `probabilities` by label |
    | ner | `labels` of the tokens, `entities`: `text`, `type`, `start`, `end`, `probability` |
    | choice | `answer` (index), `choice` (text), `probabilities` |
    | span | `answer`, `candidates`: `text`, `start`, `end`, `probability` |

    where `start` and `end` count characters. Lines are pairs of (where it stands, the line), as
    from `tasks.read_lines`. Raises ExportError for another folder, TaskError for a malformed line.
    """
    results = networks.read_results(Path(folder))
    kind = KINDS[results["task"]]
    setup = Setup(networks.load_tokenizer(folder), results["labels"], results["length"])
    with networks.quiet():
        network: nn.Module = kind.network.from_pretrained(folder)
    network.to(networks.pick_device())
    remaining = iter(lines)
    while block := list(itertools.islice(remaining, BLOCK)):
        examples = [parse(results["task"], line, where) for where, line in block]
        part = Part(examples, kind.rows(examples, setup))
        for example, found in zip(examples, answer(kind, network, part, batch, setup), strict=True):
            yield example | {"prediction": found}


def parse(task: str, line: str, where: str) -> tasks.Example:
    """An example without its target, from a line of JSON or of plain text."""
    if line.lstrip().startswith("{"):
        example = tasks.load(line, where)
        if task == "ner" and "tokens" not in example and isinstance(example.get("text"), str):
            example["tokens"] = list(example["text"])
        tasks.check_fields(task, example, where)
        return {key: value for key, value in example.items() if key != tasks.TARGET[task]}
    if task == "classification":
        return {"text": line}
    if task == "ner":
        return {"text": line, "tokens": list(line)}
    first, tab, second = line.partition("\t")
    if task == "pair" and tab:
        return {"sentence1": first, "sentence2": second}
    form = "two texts with a tab between, or JSON" if task == "pair" else "JSON"
    raise TaskError(f"{where}: expected {form} with {', '.join(tasks.FIELDS[task])}")
