"""Which keys of DeepSpeed's configuration (`engine.deepspeed`) a user may set."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

_REASONS = {
    "set optim.*; DeepSpeed's LAMB is not exact when it is sharded": "optimizer",
    "set optim.lr, optim.warmup and optim.schedule": "scheduler",
    "train.global_batch, train.micro_batch and the number of workers determine it": (
        "train_batch_size train_micro_batch_size_per_gpu gradient_accumulation_steps "
        "managed_gradient_accumulation autotuning"
    ),
    "set scaling.min_workers and scaling.max_workers": "elasticity",
    "set optim.clip": "gradient_clipping",
    "train.precision determines it": (
        "fp16.enabled fp16.auto_cast bf16.enabled bfloat16 amp torch_autocast"
    ),
    "LAMB needs master weights in fp32": (
        "fp16.fp16_master_weights_and_grads bf16.bf16_master_weights_and_grads"
    ),
    "LAMB needs moments in fp32": "bf16.bf16_optimizer_states",
    "gradients are added up in fp32, so that sums do not depend on how a batch was split": (
        "data_types communication_data_type gradient_allreduce_op "
        "zero_optimization.zero_quantized_gradients zero_optimization.zenflow sparse_gradients"
    ),
    "set engine.zero_stage": "zero_optimization.stage",
    "LAMB's norms and our checkpoints would not find the parameters": (
        "zero_optimization.round_robin_gradients zero_optimization.zero_hpz_partition_size "
        "zero_optimization.mics_shard_size"
    ),
    "set engine.offload": "zero_optimization.offload_optimizer zero_optimization.cpu_offload",
    "only optimizer state can be offloaded: engine.offload": (
        "zero_optimization.cpu_offload_param zero_optimization.offload_param"
    ),
    "optim.clip needs the norm": "zero_optimization.compute_grad_norm",
    "checkpoints are ours: train.checkpoint_every, train.keep_last": (
        "zero_optimization.elastic_checkpoint checkpoint nebula datastates_ckpt"
    ),
    "it changes the network that is trained": (
        "zero_optimization.zero_quantized_weights "
        "zero_optimization.zero_quantized_nontrainable_weights progressive_layer_drop "
        "compression_training quantize_training weight_quantization sparse_attention "
        "hybrid_engine"
    ),
    "our optimizer needs it": "zero_allow_untested_optimizer zero_force_ds_cpu_optimizer",
    "the feed alone decides which samples a step sees": (
        "data_efficiency curriculum_learning dataloader_drop_last"
    ),
    "workers share the batch only, not the network": (
        "tensor_parallel expert_parallel pipeline sequence_parallel_size "
        "seq_parallel_communication_data_type use_data_before_expert_parallelism"
    ),
    "ZeRO does not work with it, and results would be the same": (
        "prescale_gradients gradient_predivide_factor zero_optimization.legacy_stage1 "
        "zero_optimization.stage3_module_granularity_threshold"
    ),
    "set engine.compile": "compile",
    "set engine.activation_checkpointing": "activation_checkpointing",
    "it would have no effect: what it belongs to is not used here": (
        "aio eigenvalue vocabulary_size"
    ),
}
REFUSED = {key: reason for reason, keys in _REASONS.items() for key in keys.split()}
"""Keys that would break a promise or do nothing, each with the reason or the setting to use."""

TAKEN = (
    *(
        "zero_optimization",
        "fp16",
        "bf16",
        "steps_per_print",
        "wall_clock_breakdown",
        "memory_breakdown",
        "dump_state",
        "log_level",
    ),
    *("timers", "flops_profiler", "comms_logger", "tensorboard", "wandb", "comet", "csv_monitor"),
    *("graph_harvesting", "disable_allgather", "disable_python_gc"),
)
"""All other top-level keys. DeepSpeed ignores a key that it does not know."""


def refused(given: Mapping[str, Any]) -> list[str]:
    """One line for each key that may not be set or that DeepSpeed does not know."""
    mistakes = [f"{key}: not allowed; {REFUSED[key]}" for key in _keys(given) if key in REFUSED]
    for key in given:
        if key not in TAKEN and key not in REFUSED:
            close = difflib.get_close_matches(key, TAKEN, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            mistakes.append(f"{key}: DeepSpeed has no such key{hint}")
    return mistakes


def merged(derived: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """`derived` with the keys of `given` added or replaced, in nested groups too."""
    result = dict(derived)
    for key, value in given.items():
        old = result.get(key)
        nested = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = merged(old, value) if nested else value  # type: ignore[arg-type]
    return result


def _keys(given: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted names of all keys, those of groups included."""
    for key, value in given.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _keys(value, f"{prefix}{key}.")
