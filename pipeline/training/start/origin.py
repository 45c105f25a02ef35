"""The checkpoint or the export that `train.init_from` names."""

from pathlib import Path

from pipeline.errors import CheckpointError
from pipeline.files.storage import filesystem, read_note, write_json
from pipeline.files.urls import is_url
from pipeline.runs.named_model import fixed, folder_of, is_there
from pipeline.settings.config import Config
from pipeline.training.checkpoints import files

NOTE = "started_from.json"
"""File of a run: what it began with."""


def origin_of(config: Config) -> Path:
    """The folder of weights on this node: of a run it is its newest checkpoint.

    Raises:
        CheckpointError: there is no such folder, or it is a run without a complete checkpoint.
        StorageError, TrackingError, ExportError: see `folder_of`.
    """
    return _folder(config, _location(config))


def origin_at_start(config: Config, run: Path) -> Path:
    """`origin_of`, and the same one at every start of the run in a folder, if it is still there.

    What is elsewhere is copied into that folder, as workers on other nodes read it too.
    The run that `train.init_from` names may get newer checkpoints before this one has its first.
    """
    given, noted = config.train.init_from, read_note(run / NOTE)
    found = str(noted.get("found", ""))
    there = _look(found)[0] if is_url(found) else bool(found) and is_there(found)
    if noted.get("given") != given or not there:
        found = _location(config)
        write_json(run / NOTE, {"given": given, "found": found})
    return _folder(config, found, run)


def _folder(config: Config, location: str, kept_in: Path | None = None) -> Path:
    if is_there(location):
        return folder_of(config, location, kept_in)
    raise CheckpointError(
        f"{location}: no such folder; train.init_from names a run, a checkpoint or an export"
    )


def _location(config: Config) -> str:
    """Path or URL of the newest checkpoint, where a run is given; else what is given."""
    given = fixed(config, config.train.init_from.rstrip("/"))
    folder = f"{given}/checkpoints"
    if is_url(given):
        there, newest = _look(folder)
    else:
        there, found = Path(folder).is_dir(), files.newest(Path(folder))
        newest = found.name if found else ""
    if not there:
        return given
    if not newest:
        raise CheckpointError(f"{given}: this run has no complete checkpoint to start from yet")
    return f"{folder}/{newest}"


def _look(url: str) -> tuple[bool, str]:
    """Whether there is anything at a URL, and the name of the newest complete checkpoint there."""
    system, inner = filesystem(url)
    system.invalidate_cache()
    try:
        paths = system.find(inner)
    except FileNotFoundError:
        return False, ""
    marked = [Path(path).parent for path in paths if path.endswith(f"/{files.COMPLETE}")]
    found = [path for path in marked if files.NAME.fullmatch(path.name)]
    return bool(paths), max(found, key=files.step_of).name if found else ""
