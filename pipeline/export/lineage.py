"""What an export or a head was made from, and how text must be cleaned for it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.corpus.cleaning.cleaner import Cleaner
from pipeline.errors import ExportError
from pipeline.settings.corpus import STEPS, CleaningSettings

LINEAGE = "training.json"
"""File in an export, and in the heads made from it, that says what it was made from."""
NOT_FOLDED = ("html", "mojibake")
"""Steps of the cleaning that change documents, not characters: a tokenizer can't take them."""
LEFT_TO_THE_CALLER = (*NOT_FOLDED, "simplify")
"""Steps that texts need before the tokenizer; `simplify` because the tokenizer may choose the other
one where two of OpenCC's phrases overlap."""
PACKAGES = {"mojibake": "ftfy", "simplify": "opencc-python-reimplemented"}
"""Package that a step needs."""


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
    return tuple(PACKAGES[step] for step in left_steps(folder) if step in PACKAGES)


def left_steps(folder: str | Path) -> list[str]:
    """Steps that the corpus was cleaned in, and that are left to the caller of the tokenizer."""
    path = Path(folder, LINEAGE)
    if not path.exists():
        return []
    taken = read_lineage(path.parent).get("cleaning", ())  # older exports did not say it
    return [step for step in LEFT_TO_THE_CALLER if step in taken]
