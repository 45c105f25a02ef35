"""Predict with a fine-tuned head: `python -m jobs.predict predict.model=D predict.input=F`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.console import Console

from jobs.command import Verb, main
from pipeline.errors import ConfigError
from pipeline.finetuning.head_folder import read_results
from pipeline.finetuning.jsonl import read_lines
from pipeline.finetuning.predict import predict
from pipeline.settings.config import Config


def plan(config: Config) -> Mapping[str, object]:
    chosen = config.predict
    if not chosen.model:
        raise ConfigError("predict.model: name a folder that `python -m jobs.finetune` made")
    task = read_results(Path(chosen.model))["task"]
    return {"task": task, "model": chosen.model, "read": chosen.input, "write": chosen.output}


def execute(config: Config, console: Console) -> None:
    chosen = config.predict
    lines = _standard_input() if chosen.input == "-" else read_lines(chosen.input)
    found = (
        json.dumps(row, ensure_ascii=False) for row in predict(chosen.model, lines, chosen.batch)
    )
    if chosen.output == "-":
        for row in found:
            print(row)
        return
    temporary = f"{chosen.output}.tmp"
    count = 0
    with open(temporary, "w", encoding="utf-8") as file:
        for row in found:
            file.write(row + "\n")
            count += 1
    os.replace(temporary, chosen.output)
    console.print(f"{count} predictions in {chosen.output}", highlight=False)


def _standard_input() -> Iterator[tuple[str, str]]:
    for number, line in enumerate(sys.stdin, 1):
        if line.strip():
            yield f"standard input, line {number}", line.rstrip("\r\n")


VERB = Verb(
    help="Predict labels, entities, choices or answer spans: lines of text or JSON in, JSON out.",
    groups=("predict",),
    plan=plan,
    execute=execute,
)

if __name__ == "__main__":
    sys.exit(main(VERB))
