"""Settings of an ablation: runs that differ in what is to be compared."""

import re
from typing import Annotated, Any

from pydantic import Field, field_validator

from pipeline.errors import raise_all
from pipeline.settings.base import Number, Settings

NAME = r"[A-Za-z0-9_-]+"
FIXED = ("run.", "demo.", "tracking.", "ablate.", "scaling.")
"""Settings that are the same for all variants, or that the ablation itself sets."""


class AblationSettings(Settings):
    """What `jobs.ablate` compares."""

    seeds: tuple[Annotated[int, Number, Field(ge=0, lt=2**32)], ...] = (1, 2, 3)
    """Seeds of each variant: initial weights, order, dynamic masks, dropout."""
    variants: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Names, and the settings (`a.b: c`) that a variant changes. The first is the reference."""

    @field_validator("variants")
    @classmethod
    def _check_variants(cls, variants: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        mistakes = [
            f"ablate.variants.{name}: must consist of letters (a-z, A-Z), digits, `_` and `-`"
            for name in variants
            if not re.fullmatch(NAME, name)
        ]
        mistakes += [
            f"ablate.variants.{name}.{key}: all variants have the same {key.partition('.')[0]} "
            "settings; set it outside ablate"
            for name, changes in variants.items()
            for key in changes
            if f"{key}.".startswith(FIXED)
        ]
        raise_all(ValueError, mistakes)
        return variants

    @field_validator("seeds")
    @classmethod
    def _check_seeds(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if not seeds or len(set(seeds)) < len(seeds):
            raise ValueError("give at least one seed, and each only once")
        return seeds
