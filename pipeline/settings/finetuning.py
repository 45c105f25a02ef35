"""Settings of fine-tuning and of predicting with what it made."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.settings.base import AboveZero, Count, Decay, Location, Number, Positive, Settings


class TaskData(Settings):
    """Fine-tuning data: JSONL, CSV, TSV, Parquet or as public data sets are published."""

    train: Location = ""
    """Training examples."""
    dev: Location = ""
    """Examples that choose the best epoch."""
    test: Location = ""
    """Examples that are scored once, at the end; without targets they are predicted."""
    length: Annotated[int, Number, Field(ge=8)] = 128
    """Largest number of tokens in an example."""
    stride: Annotated[int, Number, Field(ge=0)] | None = None
    """Tokens that a window of a long text shares with the one before. Without it, classification
    cuts texts, ner has windows that share nothing, and those of span share a third."""
    columns: dict[str, str | int] = Field(default_factory=dict)
    """Names of a file's columns or keys by field (`{text: review}`), or numbers of its columns,
    from 0, in a table without names (`{label: 0, text: 1}`)."""
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

    name: str = ""
    """Folder of the head under the run's `heads`; empty: the task's name."""
    task: Literal[
        "",
        "classification",
        "multilabel",
        "regression",
        "pair",
        "similarity",
        "ner",
        "choice",
        "span",
    ] = ""
    """One label, several labels or a number for a text; a label or a number (similarity) for a
    pair; named entities; multiple choice; answer spans."""
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

    @model_validator(mode="after")
    def _check_stride(self) -> FinetuneSettings:
        if self.data.stride is not None:
            if self.task in ("pair", "similarity", "choice"):
                raise ValueError(f"data.stride has no effect on {self.task}: leave it out")
            if self.data.stride >= self.data.length // 2 - 3:
                raise ValueError(
                    f"data.stride={self.data.stride} must be smaller than half of data.length="
                    f"{self.data.length}, so that a window goes on from the one before"
                )
        return self

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if name in (".", "..") or re.search(r"[/\\]", name):
            raise ValueError("must be the name of a folder, without `/`, and not be `.` or `..`")
        return name


class PredictSettings(Settings):
    """Predictions of a fine-tuned head."""

    model: str = ""
    """Folder that fine-tuning made."""
    input: str = "-"
    """Lines of text or JSON, a table or a published data set, plain or compressed; `-` reads
    standard input."""
    columns: dict[str, str | int] = Field(default_factory=dict)
    """Names or numbers of a file's columns, as `finetune.data.columns`."""
    output: str = "-"
    """File to write; `-` prints."""
    form: Literal["lines", "clue"] = "lines"
    """`lines`: the fields of each input with its answer, JSONL; `clue`: a submission to CLUE."""
    batch: Positive = 32
    """Lines that the network processes at a time."""
    workers: Count = 0
    """Workers of Ray Data that share a large input, each with a GPU if the cluster has any; 0: all
    is done in this process."""
