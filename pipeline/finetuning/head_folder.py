"""The folder that fine-tuning makes: a Hugging Face folder with `results.json`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.errors import ExportError
from pipeline.export.lineage import LINEAGE
from pipeline.finetuning.network import quiet

RESULTS = "results.json"
PREDICTIONS = "predictions.jsonl"
"""Answers for test examples without targets."""


def save(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    export: str,
    output: Path,
    results: dict[str, Any],
    predictions: Iterable[dict[str, Any]] = (),
) -> None:
    """Write network, tokenizer, the export's code and lineage, and `results.json`.

    `predictions`, if there are any, are the lines of `predictions.jsonl`. The folder appears whole
    or not at all.
    """
    temporary = output.with_name(f"{output.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    with quiet():
        network.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    beside = (Path(export, name) for name in ("vocab.txt", LINEAGE))
    for path in [*Path(export).glob("*.py"), *beside]:
        if path.is_file():
            shutil.copyfile(path, temporary / path.name)
    text = json.dumps(results, indent=2, ensure_ascii=False)
    (temporary / RESULTS).write_text(text + "\n", encoding="utf-8")
    if lines := "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in predictions):
        (temporary / PREDICTIONS).write_text(lines, encoding="utf-8")
    shutil.rmtree(output, ignore_errors=True)
    temporary.rename(output)


def read_results(folder: Path) -> dict[str, Any]:
    """What `save` wrote. Raises ExportError when the folder is not a fine-tuned one."""
    try:
        return json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(
            f"{folder}: not the result of `python -m jobs.finetune`: {error}"
        ) from error
