"""The folder of a model that a setting names."""

from __future__ import annotations

import functools
from pathlib import Path

from pipeline.settings.base import is_registered
from pipeline.settings.config import Config


def folder_of(config: Config, name: str, kept_in: Path) -> Path:
    """The folder itself, or that of a registered version (`models:/…`), fetched into `kept_in`.

    Raises:
        ExportError: the version holds no Hugging Face folder.
        TrackingError: it can't be had.
    """
    if not is_registered(name):
        return Path(name)
    from pipeline.tracking.store import existing_store  # MLflow takes seconds to be imported

    return _fetched(name, existing_store(config), kept_in)


@functools.cache
def _fetched(name: str, store: str, kept_in: Path) -> Path:
    """A version, fetched once by a process, which may ask for it twice."""
    from pipeline.tracking.registry import fetch_registered

    return fetch_registered(name, store, kept_in)
