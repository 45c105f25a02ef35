"""Settings of pretraining: network, steps, optimizer, DeepSpeed and workers."""

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.errors import raise_all
from pipeline.settings.base import (
    AboveZero,
    Count,
    Decay,
    Length,
    LocalPath,
    Location,
    Model,
    NotNegative,
    Number,
    Positive,
    SampleLength,
    Settings,
)
from pipeline.settings.deepspeed import refused


class ModelSettings(Settings):
    """The network: a named size, and any field of NezhaConfig that replaces the size's own."""

    size: Literal["tiny", "small", "base", "large"] = "base"
    """tiny: 4 layers of 256 · small: 6 of 512 · base: 12 of 768 · large: 24 of 1024."""
    hidden_size: Positive | None = None
    """Width of a token's vector; null, here and below: that of the size, or NezhaConfig's."""
    num_hidden_layers: Positive | None = None
    """Layers."""
    num_attention_heads: Positive | None = None
    """Heads of an attention; the hidden size must be a multiple."""
    intermediate_size: Positive | None = None
    """Width inside the feed-forward part; null: 4 × the hidden size."""
    hidden_act: str | None = None
    """Activation of the feed-forward part, by its name in transformers."""
    hidden_dropout_prob: Decay | None = None
    """Share of a layer's outputs that training drops."""
    attention_probs_dropout_prob: Decay | None = None
    """Share of the attention probabilities that training drops."""
    max_position_embeddings: Positive | None = None
    """Longest input with `absolute_positions`; otherwise any length works."""
    max_relative_position: Count | None = None
    """Distance at which relative positions are clipped (64); 0: no relative positions."""
    absolute_positions: bool | None = None
    """Add BERT's learned position vectors; the only ones with `max_relative_position: 0`."""
    type_vocab_size: Positive | None = None
    """Kinds of segments."""
    initializer_range: AboveZero | None = None
    """Standard deviation of new weights."""
    layer_norm_eps: AboveZero | None = None
    """Added to the variance in a LayerNorm."""
    classifier_dropout: Decay | None = None
    """Dropout before a head's output layer, for programs that fine-tune an export (0.1). Here it is
    `finetune.dropout`."""


class PhaseSettings(Settings):
    """Later steps of a run, which read samples of another length."""

    after: Length
    """Steps of the run, or `N tokens`, before this phase; those that a rewind gave up count too."""
    sequence_length: SampleLength
    """Tokens of its samples, in place of `corpus.sequence_length`."""
    global_batch: Positive
    """Samples of its steps, in place of `train.global_batch`. All steps of a run have as many
    micro-batches, so those of smaller ones are smaller."""
    shards: tuple[Location, ...] = ()
    """As `train.shards`; empty: the folder that `corpus` makes for this length."""


class TrainSettings(Settings):
    """What the network is trained on, and for how long."""

    shards: tuple[Location, ...] = ()
    """Shard folders, each `PATH` or `PATH@WEIGHT`; empty: the folder that `corpus` makes."""
    window_shards: Count = 0
    """Shards that are shuffled together, and so needed at the same time; 0: all."""
    shard_cache: LocalPath = ""
    """Local folder for shards of object stores; empty: a folder in the temporary folder."""
    shard_cache_gigabytes: AboveZero = 50.0
    """Largest size of the local folder; the least recently used shards are deleted first."""
    check_shards: bool = True
    """Compare the SHA-256 of each local shard with the manifest before training, once a run."""
    steps: Length = 1000
    """Optimizer steps, or `N tokens`, which are steps × global batch × `corpus.sequence_length`."""
    global_batch: Positive = 256
    """Samples of one optimizer step, over all workers."""
    first_batch: Positive | None = None
    """Samples of the first step, where `train.batch_warmup` lets them grow to `global_batch`."""
    batch_warmup: Count = 0
    """Steps in which the global batch grows evenly; 0: all steps have `global_batch` samples."""
    micro_batch: Positive = 32
    """Largest number of samples that one worker processes at a time."""
    eval_shards: Location = ""
    """Held-out shard folder or URL; empty: the folder made from `corpus.heldout`."""
    eval_samples: Positive = 2048
    """Largest number of held-out samples in an evaluation."""
    eval_every: Length = 100
    """Steps, or `N tokens`, between evaluations."""
    checkpoint_every: Length = 100
    """Steps, or `N tokens`, between checkpoints."""
    checkpoint_retry_seconds: AboveZero = 120.0
    """How long a checkpoint is tried again on a storage that is full or does not answer."""
    checkpoint_errors: Literal["stop", "continue"] = "stop"
    """When that time is over: stop, or continue to the next one. The last one always stops."""
    keep_last: Positive = 2
    """Newest checkpoints to keep, in addition to the best one."""
    keep_every: Count = 0
    """Keep the checkpoints after multiples of so many steps for ever; 0: none."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the device computes in it, else fp32. fp16 needs a GPU."""
    log_every: Length = 10
    """Steps, or `N tokens`, between two points in MLflow, and between two progress lines."""
    profile_every: Count = 100
    """Steps between two measurements of `time/…` and `gradient_noise_scale`. 0: none."""
    phases: tuple[PhaseSettings, ...] = ()
    """Later phases with longer samples: [{after: 900, sequence_length: 512, global_batch: 64}]."""
    nsp_weight: NotNegative = 1.0
    """Weight of the loss of sentence pairs (nsp or sop) beside that of masked tokens."""
    init_from: Model = ""
    """Checkpoint, export, or run (its newest checkpoint) to start from: folder, URL, or registry
    version (`models:/NAME@ALIAS`)."""
    init_state: Literal["weights", "full", "branch"] = "weights"
    """What `init_from` gives. full: the optimizer too. branch: also its place in the data."""
    init_adapt: bool = False
    """Change the weights of `init_from` to fit this vocabulary, depth and width (a multiple)."""

    @model_validator(mode="after")
    def _check(self) -> "TrainSettings":
        if self.init_adapt and (self.init_state != "weights" or not self.init_from):
            raise ValueError(
                "train.init_adapt needs train.init_from, and train.init_state=weights: the state "
                "of an optimizer cannot be changed to fit another network"
            )
        if self.init_state != "weights" and not self.init_from:
            raise ValueError(
                f"train.init_state={self.init_state} needs train.init_from, a checkpoint_… folder"
            )
        if (self.first_batch is None) != (self.batch_warmup == 0):
            raise ValueError("train.first_batch and train.batch_warmup need each other")
        if self.first_batch and self.first_batch >= self.global_batch:
            raise ValueError("train.first_batch must be smaller than train.global_batch")
        if self.batch_warmup >= self.steps and self.init_state != "branch":
            raise ValueError(
                f"train.batch_warmup={self.batch_warmup} must be below train.steps={self.steps}: "
                "no step would have train.global_batch samples"
            )
        begins = [self.batch_warmup, *(phase.after for phase in self.phases), self.steps]
        if self.phases and any(later <= earlier for earlier, later in pairwise(begins)):
            raise ValueError(
                "train.phases: each phase must begin after the one before it and after "
                "train.batch_warmup, and before the last of train.steps"
            )
        if self.phases and self.init_state == "branch":
            raise ValueError(
                "train.phases: a branch (train.init_state=branch) goes on in the data of the run "
                "that it leaves, which has no phases; leave one of the two out"
            )
        if self.keep_every % self.checkpoint_every:
            raise ValueError(
                f"train.keep_every={self.keep_every} must be a multiple of train.checkpoint_every="
                f"{self.checkpoint_every}: there is no checkpoint after other steps"
            )
        return self


class OptimSettings(Settings):
    """Optimizer and learning rate."""

    name: Literal["lamb", "adamw"] = "lamb"
    """LAMB or AdamW; both are exact at every ZeRO stage."""
    lr: AboveZero = 1.8e-4
    """Peak learning rate (NEZHA base: 1.8e-4, in 57,000 steps; the sample run: 1e-2, in 1,900)."""
    warmup: NotNegative = 0.01
    """Warm-up steps, or `N tokens`; a number below 1 is a share of all steps."""
    decay: NotNegative | None = None
    """Last steps, in which the rate falls (steps, share, tokens); null: all after the warm-up."""
    schedule: Literal["linear", "polynomial", "nvidia", "cosine", "sqrt", "constant"] = "linear"
    """Shape of the decay. nvidia: (1 - t)^0.5, where t counts from step 0, warm-up included."""
    weight_decay: NotNegative = 0.01
    """Decoupled weight decay; biases and LayerNorm have none."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """Decay rates of the first and the second moment."""
    eps: AboveZero = 1e-6
    """Number added to the square root of the second moment."""
    clip: NotNegative = 1.0
    """Largest global gradient norm; 0: no clipping."""


class EngineSettings(Settings):
    """How DeepSpeed and the network compute."""

    zero_stage: Literal[1, 2, 3] = 1
    """What ZeRO shards. 1: optimizer state. 2: gradients too. 3: weights too."""
    offload: bool = False
    """Keep the optimizer state in CPU memory and step there (needs GPUs)."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    compile: bool = False
    """Apply torch.compile to the layers of the network, with ZeRO stages 1 and 2."""
    attention: Literal["auto", "eager", "flash"] = "auto"
    """auto: the fastest that fits. flash: the Triton kernels. eager: the definition."""
    peak_tflops: AboveZero | None = None
    """Peak of a worker's device in dense TFLOP/s, for MFU; null: looked up by the GPU's name."""
    deepspeed: dict[str, Any] = Field(default_factory=dict)
    """Keys of DeepSpeed's own configuration, merged into the one that the settings yield."""

    @field_validator("zero_stage", mode="before")
    @classmethod
    def _explain_stage_0(cls, stage: object) -> object:
        if stage == 0 and not isinstance(stage, bool):
            raise ValueError("must be 1, 2 or 3; ZeRO stage 1 on one worker is the same as no ZeRO")
        return stage

    @model_validator(mode="after")
    def _compiled_whole(self) -> "EngineSettings":
        if self.compile and self.zero_stage == 3:
            raise ValueError(
                "engine.compile needs zero_stage 1 or 2: in stage 3 DeepSpeed gathers weights "
                "inside a layer, which torch.compile cannot compile"
            )
        return self

    @field_validator("deepspeed")
    @classmethod
    def _refuse_keys(cls, given: dict[str, Any]) -> dict[str, Any]:
        raise_all(ValueError, [f"engine.deepspeed.{mistake}" for mistake in refused(given)])
        return given


class ScalingSettings(Settings):
    """The workers that train."""

    workers: Count = 0
    """Workers; 0: one for each GPU, or up to two on CPUs."""
    min_workers: Positive | None = None
    """Smallest number of workers of an elastic run, which continues when nodes come or go."""
    max_workers: Positive | None = None
    """Largest number of workers of an elastic run."""
    gpus_per_worker: Annotated[Literal[0, 1], Number] | None = None
    """GPUs of a worker; null: 1 where the cluster has GPUs, else 0."""
    cpus_per_worker: AboveZero = 1
    """CPUs, and so threads, of a worker."""
    wait_seconds: NotNegative = 0.0
    """Seconds to wait for nodes that the cluster starts by itself; 0: refuse what lacks nodes."""

    @model_validator(mode="after")
    def _check(self) -> "ScalingSettings":
        low, high = self.min_workers, self.max_workers
        mistakes = []
        if (low is None) != (high is None):
            mistakes.append("scaling.min_workers and scaling.max_workers need each other")
        if low and high and low > high:
            mistakes.append("scaling.min_workers must not exceed scaling.max_workers")
        if self.workers and (low or high):
            mistakes.append(
                "scaling.workers fixes the number of workers, scaling.min_workers and max_workers "
                "let it change; set one or the other"
            )
        if self.wait_seconds and (self.gpus_per_worker is None or not (self.workers or high)):
            # What is not there yet can't be counted, and a head's CPUs would be taken instead.
            mistakes.append(
                "scaling.wait_seconds waits for a known group of workers: set "
                "scaling.gpus_per_worker to 0 or 1, and scaling.workers (or min_workers and "
                "max_workers)"
            )
        raise_all(ValueError, mistakes)
        return self
