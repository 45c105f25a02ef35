"""Where the parts of a run lie: one place that knows the folder's layout."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from pipeline.settings.config import Config


class RunPaths(NamedTuple):
    """Folders and files of a run, absolute: workers have other working directories."""

    run: Path
    sample: Path
    """Texts and tasks made from the sample package"""
    vocab: Path
    shards: Path
    heldout: Path
    checkpoints: Path
    export: Path
    heads: Path
    summary: Path

    @classmethod
    def of(cls, config: Config) -> RunPaths:
        """The layout of `run.storage`/`run.name`, with the user's own places where given."""
        run = Path(config.run.storage, config.run.name)
        return cls(
            run=run,
            sample=run / "sample",
            vocab=Path(config.corpus.vocab or run / "vocab.txt"),
            shards=Path(config.corpus.output or run / "shards"),
            heldout=Path(config.train.eval_shards or run / "heldout"),
            checkpoints=run / "checkpoints",
            export=run / "export",
            heads=run / "heads",
            summary=run / "summary.json",
        )
