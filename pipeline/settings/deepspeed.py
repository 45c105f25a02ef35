"""Which keys of DeepSpeed's configuration (`engine.deepspeed`) a user may set."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

_BATCH = "train.global_batch, train.micro_batch and the number of workers determine it"
_PRECISION = "train.precision determines it"
_SUMS = "gradients are added up in fp32, so that sums do not depend on how a batch was split"
_DATA = "the feed alone decides which samples a step sees"
_NETWORK = "it changes the network that is trained"
_PARTITION = "LAMB's norms and our checkpoints would not find the parameters"
_PARALLEL = "workers share the batch only, not the network"
_UNUSED = "it would have no effect: what it belongs to is not used here"
_FILES = "checkpoints are ours: train.checkpoint_every, train.keep_last"

REFUSED = {
    "optimizer": "set optim.*; DeepSpeed's LAMB is not exact when it is sharded",
    "scheduler": "set optim.lr, optim.warmup and optim.schedule",
    "train_batch_size": _BATCH,
    "train_micro_batch_size_per_gpu": _BATCH,
    "gradient_accumulation_steps": _BATCH,
    "managed_gradient_accumulation": _BATCH,
    "elasticity": "set scaling.min_workers and scaling.max_workers",
    "autotuning": _BATCH,
    "gradient_clipping": "set optim.clip",
    "fp16.enabled": _PRECISION,
    "fp16.auto_cast": _PRECISION,
    "fp16.fp16_master_weights_and_grads": "LAMB needs master weights in fp32",
    "bf16.enabled": _PRECISION,
    "bf16.bf16_master_weights_and_grads": "LAMB needs master weights in fp32",
    "bf16.bf16_optimizer_states": "LAMB needs moments in fp32",
    "bfloat16": _PRECISION,
    "amp": _PRECISION,
    "torch_autocast": _PRECISION,
    "data_types": _SUMS,
    "communication_data_type": _SUMS,
    "gradient_allreduce_op": _SUMS,
    "zero_optimization.stage": "set engine.zero_stage",
    "zero_optimization.round_robin_gradients": _PARTITION,
    "zero_optimization.offload_optimizer": "set engine.offload",
    "zero_optimization.cpu_offload": "set engine.offload",
    "zero_optimization.cpu_offload_param": "only optimizer state can be offloaded: engine.offload",
    "zero_optimization.offload_param": "only optimizer state can be offloaded: engine.offload",
    "zero_optimization.compute_grad_norm": "optim.clip needs the norm",
    "zero_optimization.elastic_checkpoint": _FILES,
    "zero_optimization.zero_hpz_partition_size": _PARTITION,
    "zero_optimization.mics_shard_size": _PARTITION,
    "zero_optimization.zero_quantized_weights": _NETWORK,
    "zero_optimization.zero_quantized_nontrainable_weights": _NETWORK,
    "zero_optimization.zero_quantized_gradients": _SUMS,
    "zero_optimization.zenflow": _SUMS,
    "zero_allow_untested_optimizer": "our optimizer needs it",
    "zero_force_ds_cpu_optimizer": "our optimizer needs it",
    "sparse_gradients": _SUMS,
    "data_efficiency": _DATA,
    "curriculum_learning": _DATA,
    "progressive_layer_drop": _NETWORK,
    "compression_training": _NETWORK,
    "quantize_training": _NETWORK,
    "weight_quantization": _NETWORK,
    "sparse_attention": _NETWORK,
    "hybrid_engine": _NETWORK,
    "tensor_parallel": _PARALLEL,
    "expert_parallel": _PARALLEL,
    "pipeline": _PARALLEL,
    "sequence_parallel_size": _PARALLEL,
    "seq_parallel_communication_data_type": _PARALLEL,
    "use_data_before_expert_parallelism": _PARALLEL,
    "compile": "set engine.compile",
    "activation_checkpointing": "set engine.activation_checkpointing",
    "dataloader_drop_last": _DATA,
    "aio": _UNUSED,
    "eigenvalue": _UNUSED,
    "vocabulary_size": _UNUSED,
    "checkpoint": _FILES,
    "nebula": _FILES,
    "datastates_ckpt": _FILES,
}
"""Keys that would break a promise or do nothing, each with the reason or the setting to use."""

TAKEN = (
    *("zero_optimization", "fp16", "bf16", "prescale_gradients", "gradient_predivide_factor"),
    *("steps_per_print", "wall_clock_breakdown", "memory_breakdown", "dump_state", "log_level"),
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
