"""Where the files of a run are: the one place that knows the folder's layout."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from pipeline.settings.config import Config


class RunPaths(NamedTuple):
    """Folders and files of a run, absolute: workers have other working directories."""

    run: Path
    sample: Path
    """Texts and tasks made from the sample package."""
    vocab: Path
    shards: Path
    """Shards that are made from `corpus.inputs`."""
    training: tuple[str, ...]
    """Shard folders or URLs to train on, each `PATH` or `PATH@WEIGHT`."""
    heldout: Path
    checkpoints: Path
    export: Path
    heads: Path
    summary: Path

    @classmethod
    def of(cls, config: Config) -> RunPaths:
        """The layout of `run.storage`/`run.name`, with the places that the user chose instead."""
        run = Path(config.run.storage, config.run.name)
        shards = Path(config.corpus.output or run / "shards")
        return cls(
            run=run,
            sample=run / "sample",
            vocab=Path(config.corpus.vocab or run / "vocab.txt"),
            shards=shards,
            training=config.train.shards or (str(shards),),
            heldout=Path(config.train.eval_shards or run / "heldout"),
            checkpoints=run / "checkpoints",
            export=run / "export",
            heads=run / "heads",
            summary=run / "summary.json",
        )
