"""The folder of a model that a setting names: a folder, its URL, or a registered version."""

import functools
from pathlib import Path

from pipeline.errors import StorageError
from pipeline.files.hashing import short_hash
from pipeline.files.store import CONTACT_SECONDS
from pipeline.files.urls import is_url
from pipeline.paths import temporary_folder
from pipeline.runs.store_copy import StoreCopy
from pipeline.settings.base import is_registered
from pipeline.settings.config import Config

COPIES = ".models"
"""Hidden, so that a run in an object store does not upload copies of what is in one."""


def folder_of(config: Config, name: str, kept_in: Path | None = None) -> Path:
    """The folder; of a URL its copy, which is made as new as the store.

    Args:
        kept_in: takes the files of a URL or a registered version (`models:/…`). If other nodes need
            them, it must be a folder that they get too, as that of a run. None: a temporary folder
            of this node.

    Raises:
        ExportError: the version holds no Hugging Face folder.
        TrackingError: it can't be had.
        StorageError: there is nothing at the URL, or the store does not answer.
    """
    if is_url(name):
        return _copied(
            name.rstrip("/"), kept_in / COPIES if kept_in else temporary_folder("models")
        )
    if not is_registered(name):
        return Path(name)
    store = _store(config)
    return _fetched(name, store, kept_in or temporary_folder("models") / short_hash(store))


def fixed(config: Config, name: str) -> str:
    """The name of a registered version by its number; another name stays as it is."""
    if not is_registered(name):
        return name
    from pipeline.tracking.registry import numbered

    return numbered(name, _store(config))


def is_there(name: str) -> bool:
    """Whether there is a folder of this name on this node; what lies elsewhere counts as there."""
    return is_url(name) or is_registered(name) or Path(name).exists()


def _store(config: Config) -> str:
    from pipeline.tracking.store import existing_store  # MLflow takes seconds to be imported

    return existing_store(config)


def _copied(url: str, kept_in: Path) -> Path:
    copy = StoreCopy(kept_in / short_hash(url), url)

    def refresh() -> None:
        if not copy.refresh():  # a copy that was made before must not stand for it
            raise StorageError(f"{url}: there is nothing at this URL")

    copy.insist(refresh, "could not be read", CONTACT_SECONDS)
    return copy.folder


@functools.cache
def _fetched(name: str, store: str, kept_in: Path) -> Path:
    """A version, fetched once by a process, which may ask for it twice."""
    from pipeline.tracking.registry import fetch_registered

    return fetch_registered(name, store, kept_in)
