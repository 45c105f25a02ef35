"""Predict with a fine-tuned head: `python -m jobs.predict predict.model=D predict.input=F`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.console import Console

from jobs.command import Verb, main
from pipeline.errors import ConfigError, TaskError
from pipeline.finetuning.head_folder import read_results
from pipeline.finetuning.jsonl import bare, read_lines
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
    temporary = Path(f"{chosen.output}.tmp")
    count = 0
    try:
        with temporary.open("w", encoding="utf-8") as file:
            for row in found:
                file.write(row + "\n")
                count += 1
        temporary.replace(chosen.output)
    finally:
        temporary.unlink(missing_ok=True)
    console.print(f"{count} predictions in {chosen.output}", highlight=False)


def _standard_input() -> Iterator[tuple[str, str]]:
    number = 0
    # Lines are cut as in a file, whatever the terminal's encoding is.
    sys.stdin.reconfigure(encoding="utf-8", errors="strict", newline="\n")  # type: ignore[union-attr]
    try:
        for number, line in enumerate(sys.stdin, 1):
            yield f"standard input, line {number}", bare(line)
    except UnicodeDecodeError as error:
        raise TaskError(
            f"standard input, after line {number}: {error}; expected UTF-8 text"
        ) from error


VERB = Verb(
    help=(
        "Predict labels, entities, choices or answer spans: lines of text or JSON in, as many\n"
        "lines of JSON out. A blank line has the prediction null."
    ),
    groups=("predict",),
    plan=plan,
    execute=execute,
)

if __name__ == "__main__":
    sys.exit(main(VERB))
