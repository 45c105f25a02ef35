"""The folder that fine-tuning makes: a Hugging Face folder with `results.json`."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.errors import ExportError
from pipeline.export.lineage import LINEAGE
from pipeline.finetuning.examples.jsonl import to_json
from pipeline.finetuning.loading import quiet
from pipeline.finetuning.submission import submission
from pipeline.finetuning.tasks import TASKS

RESULTS = "results.json"
PREDICTIONS = "predictions.jsonl"
"""Answers for test examples without targets."""
SUBMISSION = "submission.json"
"""The same in the form of CLUE's submissions."""


def save(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    export: str,
    folder: Path,
    results: dict[str, Any],
    predictions: Sequence[dict[str, Any]] = (),
) -> None:
    """Write network, tokenizer, the export's code and lineage, and `results.json` to a new folder.

    `predictions`, if there are any, become `predictions.jsonl` and `submission.json`.
    """
    with quiet():
        network.save_pretrained(folder)
    # Else other programs would cut and pad as the last call did.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.save_pretrained(folder)
    beside = (Path(export, name) for name in ("vocab.txt", LINEAGE))
    for path in [*Path(export).glob("*.py"), *beside]:
        if path.is_file():
            shutil.copyfile(path, folder / path.name)
    (folder / RESULTS).write_text(to_json(results, indent=2), encoding="utf-8")
    if lines := "".join(map(to_json, predictions)):
        (folder / PREDICTIONS).write_text(lines, encoding="utf-8")
        submitted = "".join(submission(TASKS[results["task"]], predictions))
        (folder / SUBMISSION).write_text(submitted, encoding="utf-8")


def read_results(folder: Path) -> dict[str, Any]:
    """What `save` wrote. Raises ExportError when the folder is not a fine-tuned one."""
    try:
        found = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        if not isinstance(found, dict) or found.get("task") not in TASKS:
            raise ValueError(f"{RESULTS} names no task")
        return found
    except (OSError, ValueError) as error:
        raise ExportError(
            f"{folder}: not the result of `python -m jobs.finetune`: {error}"
        ) from error
