"""Settings of fine-tuning and of predicting with what it made."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from pipeline.settings.base import (
    AboveZero,
    Count,
    Decay,
    FolderName,
    Location,
    Model,
    NotNegative,
    Number,
    PathAsGiven,
    Positive,
    Settings,
    absolute_unless_registered,
)


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
    columns: dict[str, str | Annotated[int, Number]] = Field(default_factory=dict)
    """Names of a file's columns or keys by field (`{text: review}`; `{labels: meta.topics}` for
    `topics` in an object `meta`), or numbers of its columns, from 0, in a table without names
    (`{label: 0, text: 1}`) and in CoNLL's form (`{labels: 3}`)."""
    examples: Count = 0
    """Training examples to use, spread evenly over the file; 0: all."""
    eval_examples: Count = 0
    """Dev examples and test examples to use, spread evenly over their files; 0: all."""


class SearchSettings(Settings):
    """A grid over the fine-tuning recipe; the point with the best mean dev score is kept."""

    lr: tuple[AboveZero, ...] = ()
    """Learning rates to try."""
    batch: tuple[Positive, ...] = ()
    """Batch sizes to try."""
    seeds: tuple[Annotated[int, Number], ...] = ()
    """Seeds of each point of the grid. The score is their mean; the kept head is the median one."""
    halving: bool = False
    """Stop trials early whose dev score is in the worse half after 1, 2, 4 … epochs (ASHA)."""

    @field_validator("lr", "batch", "seeds")
    @classmethod
    def _check_different(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(values)) < len(values):
            raise ValueError("must not hold a value twice: the trials would be the same")
        return values


class FinetuneSettings(Settings):
    """One downstream task."""

    name: FolderName = ""
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
    checkpoint: Model = ""
    """Export folder, its URL or registry version (`models:/NAME@ALIAS`) to start from; empty: that
    of the run."""
    data: TaskData = TaskData()
    epochs: Positive = 3
    """Passes over the training examples."""
    lr: AboveZero = 3e-5
    """Peak learning rate."""
    batch: Positive = 32
    """Examples of one step."""
    micro_batch: Count = 0
    """Examples that the network processes at a time, to save memory; 0: all of the batch."""
    warmup: Decay = 0.1
    """Share of the steps in which the learning rate rises; then it falls linearly to 0."""
    weight_decay: NotNegative = 0.01
    """Decoupled decay of the matrices; biases and LayerNorm have none."""
    layer_decay: Annotated[float, Number, Field(gt=0.0, le=1.0)] = 1.0
    """Learning rate of a layer as a share of that of the layer above it; 1: the same for all."""
    clip: NotNegative = 1.0
    """Largest norm of the gradient; 0: no limit."""
    label_weights: Literal["balanced"] | dict[str, AboveZero] = Field(default_factory=dict)
    """Weight of each label in the loss, others have 1; `balanced`: inversely to its frequency."""
    patience: Count = 0
    """Stop after so many epochs without a better dev score; 0: train all epochs."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of products; auto: bf16 where the device computes in it, otherwise fp32. fp16 needs a GPU."""
    dropout: Decay = 0.1
    """Dropout of the whole network during fine-tuning."""
    search: SearchSettings = SearchSettings()
    skip_bad: bool = False
    """Leave malformed examples out and count them, instead of stopping before the training."""
    gpus: AboveZero = 1.0
    """GPUs of a trial, or of each of its `workers`, where the cluster has any; with 0.5, two trials
    share one."""
    workers: Positive = 1
    """Workers that share each batch of a trial, for large networks and data. Each has GPUs of its
    own (`gpus`), or its share of the CPUs, and `micro_batch` counts for each."""
    from_scratch: bool = False
    """Start from random weights of the same network, to show what pretraining is worth."""


class CompareSettings(Settings):
    """A comparison of checkpoints over the tasks of `heads`."""

    checkpoints: tuple[str, ...] = ()
    """What to compare, the reference first: an export or another Hugging Face folder, its URL, a
    registry version (`models:/NAME/2`, `models:/NAME@ALIAS`), or `random` (random weights of the
    first)."""
    run: PathAsGiven = ""
    """Compare the checkpoints of this run as well: its name under `run.storage`, or its folder."""
    tasks: tuple[PathAsGiven, ...] = ()
    """Tasks of `heads` to compare on, by name (none named: all of them), and recipe files whose
    tasks are added: the one of `finetune`, or those of `heads`."""
    data: Location = ""
    """A folder with a folder for each task that holds its train, dev and perhaps test file
    (`afqmc/train.jsonl.gz` …), in place of the paths of the recipes."""
    seeds: Positive = 3
    """Fine-tunings of each checkpoint for each task; their seeds are run.seed, run.seed + 1 …"""
    train_limit: Count = 0
    """Training examples of each task, spread evenly over its file; 0: what the recipe says."""
    eval_limit: Count = 0
    """Dev and test examples of each task, spread evenly over their files; 0: the recipe's."""

    @field_validator("checkpoints")
    @classmethod
    def _check_checkpoints(cls, checkpoints: tuple[str, ...]) -> tuple[str, ...]:
        places = tuple(
            each if each == "random" else absolute_unless_registered(each) for each in checkpoints
        )
        if len(set(places)) < len(places):
            raise ValueError("must not name a checkpoint twice")
        return places


class PredictSettings(Settings):
    """Predictions of a fine-tuned head."""

    model: PathAsGiven = ""
    """Folder that fine-tuning made, its URL, or its version in the registry (`models:/NAME/2`,
    `models:/NAME@ALIAS`)."""
    input: PathAsGiven = "-"
    """Lines of text or JSON, a table or a published data set, plain or compressed; `-` reads
    standard input."""
    columns: dict[str, str | Annotated[int, Number]] = Field(default_factory=dict)
    """Names or numbers of a file's columns, as `finetune.data.columns`."""
    output: PathAsGiven = "-"
    """File to write; `-` prints."""
    form: Literal["lines", "clue"] = "lines"
    """`lines`: the fields of each input with its answer, JSONL; `clue`: a submission to CLUE."""
    batch: Positive = 32
    """Lines that the network processes at a time."""
    workers: Count = 0
    """Workers of Ray Data that share a large input, each with a GPU if the cluster has any or can
    start some; 0: all is done in this process."""
