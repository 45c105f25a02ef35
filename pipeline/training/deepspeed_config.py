"""DeepSpeed's configuration, derived from our settings."""

from typing import Any

import torch

from pipeline.settings.config import Config
from pipeline.settings.deepspeed import merged
from pipeline.training.batch_split import Split

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
REDUCE_BUCKET, GATHER_BUCKET = 25_000_000, 100_000_000
"""Elements of DeepSpeed's buckets for gradients and for weights."""


def deepspeed_config(config: Config, split: Split, precision: str) -> dict[str, Any]:
    """Keys that follow from our settings, with those of `engine.deepspeed` merged into them."""
    zero: dict[str, Any] = {
        "stage": config.engine.zero_stage,
        # Buckets are allocated whole: DeepSpeed's 500 M elements would dwarf a model of 100 M.
        "reduce_bucket_size": REDUCE_BUCKET,
        "allgather_bucket_size": GATHER_BUCKET,
        "overlap_comm": torch.cuda.is_available(),
        "round_robin_gradients": False,
    }
    if config.engine.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    derived: dict[str, Any] = {
        # In an elastic run, what it would be if the workers' shares were equal.
        "train_batch_size": split.micro_batch * split.accumulation * split.world_size,
        "train_micro_batch_size_per_gpu": split.micro_batch,
        "gradient_accumulation_steps": split.accumulation,
        "gradient_clipping": config.optim.clip,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        # It would synchronise the device twice in every micro-batch.
        "timers": {"throughput": {"enabled": False}},
        "steps_per_print": 10**9,
    }
    if precision in HALF:
        derived[precision] = {"enabled": True}
        # Sums in fp32 do not depend on how a batch was split; sums in half precision would.
        derived["communication_data_type"] = "fp32"
        derived["data_types"] = {"grad_accum_dtype": "fp32"}
    return merged(derived, config.engine.deepspeed)
