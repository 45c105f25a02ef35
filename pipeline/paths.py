"""Where the files of a run are: the one place that knows the folder's layout."""

import os
import tempfile
from pathlib import Path
from typing import NamedTuple

from pipeline.files.hashing import short_hash
from pipeline.files.urls import is_url
from pipeline.settings.config import Config
from pipeline.settings.run import RunSettings


class RunPaths(NamedTuple):
    """Folders and files of a run, absolute: workers have other working directories."""

    run: Path
    sample: Path
    """Texts and tasks made from the sample package."""
    vocab: str
    """File or URL of the vocabulary."""
    shards: str
    """Folder or URL of the shards that are made from `corpus.inputs`."""
    training: tuple[str, ...]
    """Shard folders or URLs to train on, each `PATH` or `PATH@WEIGHT`."""
    later: tuple[tuple[str, ...], ...]
    """The same of each of `train.phases`."""
    heldout: str
    """Folder or URL of the held-out shards."""
    checkpoints: Path
    export: Path
    heads: Path
    summary: Path

    @classmethod
    def of(cls, config: Config) -> "RunPaths":
        """The layout of `run.storage`/`run.name`, with the places that the user chose instead."""
        run = storage_folder(config.run) / config.run.name
        shards = _folder(config.corpus.output, run / "shards")
        return cls(
            run=run,
            sample=run / "sample",
            vocab=config.corpus.vocab or str(run / "vocab.txt"),
            shards=shards,
            training=config.train.shards or (shards,),
            later=tuple(
                phase.shards or (f"{shards}-{phase.sequence_length}",)
                for phase in config.train.phases
            ),
            heldout=_folder(config.train.eval_shards, run / "heldout"),
            checkpoints=run / "checkpoints",
            export=run / "export",
            heads=run / "heads",
            summary=run / "summary.json",
        )


def _folder(chosen: str, usual: Path) -> str:
    """The folder or URL that the user chose, or the usual one. `/` is a folder too."""
    return (chosen.rstrip("/") or "/") if chosen else str(usual)


def storage_folder(run: RunSettings) -> Path:
    """`run.storage`; for a URL, the folder in which this machine works on its runs."""
    if not is_url(run.storage):
        return Path(run.storage)
    root = run.scratch or temporary_folder("runs")
    return Path(root, short_hash(run.storage.rstrip("/")))


def temporary_folder(kind: str) -> Path:
    """This user's folder for files of a kind; another user of the machine could not write there."""
    return Path(tempfile.gettempdir(), f"nezha-{kind}-{os.getuid()}")
