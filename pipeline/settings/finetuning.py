"""Settings of fine-tuning and of predicting with what it made."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.settings.base import (
    AboveZero,
    Count,
    Decay,
    FolderName,
    Location,
    Number,
    Positive,
    Settings,
)


class TaskData(Settings):
    """Fine-tuning data: JSONL, plain or compressed."""

    train: Location = ""
    """Training examples."""
    dev: Location = ""
    """Examples that choose the best epoch."""
    test: Location = ""
    """Examples that are scored once, at the end; without targets they are predicted."""
    length: Annotated[int, Number, Field(ge=8)] = 128
    """Largest number of tokens in an example."""
    examples: Count = 0
    """Training examples to use, spread evenly over the file; 0: all."""


class SearchSettings(Settings):
    """A small grid over the fine-tuning recipe, judged by the scores on dev."""

    lr: tuple[AboveZero, ...] = ()
    """Learning rates to try."""
    batch: tuple[Positive, ...] = ()
    """Batch sizes to try."""
    seeds: tuple[int, ...] = ()
    """Seeds to try."""


class FinetuneSettings(Settings):
    """One downstream task."""

    name: FolderName = ""
    """Folder of the head under the run's `heads`; empty: the task's name."""
    task: Literal["", "classification", "pair", "ner", "choice", "span"] = ""
    """Classification of sentences or pairs, named entities, multiple choice, or answer spans."""
    checkpoint: str = ""
    """Export folder to start from; empty: the run's own."""
    data: TaskData = TaskData()
    epochs: Positive = 3
    """Passes over the training examples."""
    lr: AboveZero = 3e-5
    """Peak learning rate."""
    batch: Positive = 32
    """Examples of one step."""
    dropout: Decay = 0.1
    """Dropout of the whole network during fine-tuning."""
    search: SearchSettings = SearchSettings()
    skip_bad: bool = False
    """Leave malformed examples out and count them, instead of stopping before the training."""
    from_scratch: bool = False
    """Start from random weights of the same network, to show what pretraining is worth."""


class PredictSettings(Settings):
    """Predictions of a fine-tuned head."""

    model: str = ""
    """Folder that fine-tuning made."""
    input: str = "-"
    """Lines of text or JSON, plain or compressed; `-` reads standard input."""
    output: str = "-"
    """JSONL file to write; `-` prints."""
    batch: Positive = 32
    """Lines that the network processes at a time."""
