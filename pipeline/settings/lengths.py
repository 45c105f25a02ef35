"""Lengths that are written as `N tokens`, turned into optimizer steps."""

import math
from collections.abc import Mapping
from typing import Any

from pipeline.settings.corpus import CorpusSettings
from pipeline.settings.training import TrainSettings

LENGTHS = {
    "train": ("steps", "eval_every", "checkpoint_every", "log_every"),
    "optim": ("warmup", "decay"),
}
UNIT = " tokens"


def in_steps(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as a file gives them, with every `N tokens` replaced by a number of steps.

    A step has `train.global_batch` × `corpus.sequence_length` tokens, as papers count them: short
    samples count as full ones, and so do the steps of a batch warm-up and of later phases. Lengths
    are rounded up. Text that is no number of tokens stays, and all text stays if one of the two
    settings is no number: the settings' own checks report it. Variants of an ablation have as many
    tokens, so more steps where their steps have fewer: they get these lengths as they are given.
    """
    tokens = _given(values, "train", "global_batch", TrainSettings)
    tokens *= _given(values, "corpus", "sequence_length", CorpusSettings)
    result = dict(values)
    for group, names in LENGTHS.items():
        if isinstance(given := values.get(group), Mapping):
            found = {name: _steps(given[name], tokens) for name in names if name in given}
            result[group] = {**given, **found}
    train = result.get("train")
    if isinstance(train, Mapping) and isinstance(phases := train.get("phases"), list | tuple):
        result["train"] = {**train, "phases": [_phase_in_steps(each, tokens) for each in phases]}
    if isinstance(ablate := values.get("ablate"), Mapping) and "variants" in ablate:
        result["ablate"] = {**ablate, "variants": _with_tokens(ablate["variants"], values, result)}
    return result


def _with_tokens(variants: Any, given: Mapping[str, Any], result: Mapping[str, Any]) -> Any:
    """Variants with the lengths that `result` has in steps as they are given, unless they change
    them.
    """
    if not isinstance(variants, Mapping):
        return variants
    lengths = {
        f"{group}.{name}": value
        for group in LENGTHS
        if isinstance(given.get(group), Mapping)
        for name, value in given[group].items()
        if result[group][name] != value
    }
    return {
        name: {**lengths, **changes} if isinstance(changes, Mapping) else changes
        for name, changes in variants.items()
    }


def _phase_in_steps(phase: Any, tokens: float) -> Any:
    if not isinstance(phase, Mapping) or "after" not in phase:
        return phase
    return {**phase, "after": _steps(phase["after"], tokens)}


def _given(values: Mapping[str, Any], group: str, name: str, settings: Any) -> float:
    """A number of the settings, or its default; NaN where something else is given."""
    inside = values.get(group)
    if isinstance(inside, settings):
        return getattr(inside, name)
    value = inside.get(name) if isinstance(inside, Mapping) else None
    value = settings.model_fields[name].default if value is None else value
    return value if isinstance(value, int | float) and value > 0 else math.nan


def _steps(length: Any, tokens: float) -> Any:
    if not isinstance(length, str) or not length.endswith(UNIT) or math.isnan(tokens):
        return length
    try:
        steps = float(length.removesuffix(UNIT).replace("_", "")) / tokens
        return max(1, math.ceil(steps)) if steps > 0 else length
    except (ValueError, OverflowError):
        return length
