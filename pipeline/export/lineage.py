"""What an export or a head was made from, and how text must be cleaned for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.corpus.cleaning.cleaner import Cleaner
from pipeline.errors import ExportError
from pipeline.settings.corpus import STEPS, CleaningSettings

LINEAGE = "training.json"
"""File in an export, and in the heads made from it, that says what it was made from."""
LEFT_TO_THE_CALLER = {"html": None, "mojibake": "ftfy", "simplify": "opencc-python-reimplemented"}
"""Steps of the cleaning that the tokenizer does not take, or not always as the corpus did, and the
packages that they need: a tokenizer cannot take out tags, and where two of OpenCC's phrases overlap
it may choose the other one."""


def read_lineage(folder: Path) -> dict[str, Any]:
    """What an export was made from: run, checkpoint, step, held-out scores, settings.

    Raises:
        ExportError: the folder is not an export of this project.
    """
    try:
        return json.loads((folder / LINEAGE).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(
            f"{folder} is not an export: {error}; make one with `python -m jobs.export`"
        ) from None


def text_cleaner(folder: str | Path) -> Callable[[str], str]:
    """What must be done to a text before the tokenizer of an export or a head sees it.

    Texts of folders without a `training.json`, which other programs made, are left as they are.
    """
    left = left_steps(folder)
    chosen = CleaningSettings.model_validate({step: step in left for step in STEPS})
    return Cleaner(chosen).clean


def packages(folder: str | Path) -> tuple[str, ...]:
    """Packages that the cleaning of `text_cleaner` needs."""
    needed = (LEFT_TO_THE_CALLER[step] for step in left_steps(folder))
    return tuple(package for package in needed if package)


def left_steps(folder: str | Path) -> list[str]:
    """Steps that the corpus was cleaned in, and that are left to the caller of the tokenizer."""
    path = Path(folder, LINEAGE)
    if not path.exists():
        return []
    taken = read_lineage(path.parent).get("cleaning", ())  # older exports did not say it
    return [step for step in LEFT_TO_THE_CALLER if step in taken]
