"""Predict with a fine-tuned head: `python -m jobs.predict predict.model=D predict.input=F`."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.console import Console

from jobs.command import Verb, main
from jobs.output import lines
from jobs.output.console import plain_console
from jobs.output.progress import ConsoleProgress
from pipeline.corpus.decoding.decompression import READ_BYTES
from pipeline.errors import ConfigError, raise_all
from pipeline.finetuning.examples.input_lines import one_a_line, read_input
from pipeline.finetuning.examples.jsonl import to_json
from pipeline.finetuning.examples.lines import lines_of
from pipeline.finetuning.prediction.head_folder import read_results
from pipeline.finetuning.prediction.predict import LINES, predict
from pipeline.finetuning.submission import submission
from pipeline.finetuning.tasks import TASKS, Task
from pipeline.progress import Progress
from pipeline.runs.named_model import folder_of
from pipeline.settings.config import Config


def plan(config: Config) -> Mapping[str, object]:
    chosen = config.predict
    if not chosen.model:
        raise ConfigError(
            "predict.model: name a folder that `python -m jobs.finetune` made, or its version in "
            "the registry (models:/NAME@ALIAS)"
        )
    task = read_results(_model(config))["task"]
    if chosen.input == "-" and (chosen.workers or chosen.columns):
        raise ConfigError(
            "predict.input: name a file; standard input has lines of text or JSON, without columns "
            "(predict.columns), and cannot be shared among workers (predict.workers)"
        )
    wrong = TASKS[task].wrong_columns(chosen.columns)
    raise_all(ConfigError, [f"predict.columns: {mistake}" for mistake in wrong])
    lines.check_output(chosen.output, "predict.output", chosen.input)
    return {"task": task, "model": chosen.model, "read": chosen.input, "write": chosen.output}


def execute(config: Config, console: Console) -> None:
    chosen, model = config.predict, _model(config)
    task = TASKS[read_results(model)["task"]]
    rows = _rows(config, task, str(model.absolute()))
    found = submission(task, rows) if chosen.form == "clue" else map(to_json, rows)
    if chosen.output == lines.STANDARD:
        lines.write(found, chosen.output, "predict.output")
        return
    with closing(ConsoleProgress(console)) as progress:
        count = lines.write(_counted(found, progress), chosen.output, "predict.output")
    console.print(f"{count} line(s) of predictions in {chosen.output}")


def _counted(found: Iterable[str], progress: Progress) -> Iterator[str]:
    """The lines, whose number is shown now and then: the file appears only when it is whole."""
    for number, line in enumerate(found, 1):
        yield line
        if number % LINES == 0:
            progress.update(f"{number:,} lines are answered")


def _model(config: Config) -> Path:
    """The folder of the head."""
    return folder_of(config, config.predict.model)


def _rows(config: Config, task: Task, model: str) -> Iterator[dict[str, Any]]:
    chosen = config.predict
    if chosen.workers:
        from pipeline.finetuning.prediction.predict_on_cluster import predict_on_cluster

        return predict_on_cluster(
            model,
            task.name,
            chosen.input,
            chosen.columns,
            chosen.batch,
            chosen.workers,
            config.scaling,
            plain_console(stderr=True).print,
        )
    standard = chosen.input == "-"
    given = _standard_input() if standard else read_input(chosen.input, task, chosen.columns)
    return predict(model, given, chosen.batch)


def _standard_input() -> Iterator[tuple[str, str]]:
    """Lines are cut and decoded as those of a file, whatever the terminal's encoding is."""
    parts = iter(lambda: sys.stdin.buffer.read1(READ_BYTES), b"")  # type: ignore[union-attr]
    return one_a_line(lines_of(parts, "standard input"))


VERB = Verb(
    help=(
        "Predict labels, numbers, entities, choices or answer spans: lines of text or JSON, a\n"
        "table or a published data set in, a line of JSON out for each example. A blank line has\n"
        "the prediction null. predict.form=clue writes a submission to CLUE instead."
    ),
    groups=("predict", "run.storage", "tracking.uri", "scaling"),
    plan=plan,
    execute=execute,
)

if __name__ == "__main__":
    raise SystemExit(main(VERB))
