"""DeepSpeed, set up from our settings: precision, ZeRO, clipping, LAMB."""

from __future__ import annotations

import logging
import os
import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.settings.config import Config
from pipeline.training.batch_split import Split
from pipeline.training.lamb import optimizer as lamb
from pipeline.training.lamb.fragments import Flat, locate

logger = logging.getLogger(__name__)
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(precision: str, device: torch.device | str) -> str:
    """`fp32`, `bf16` or `fp16`; `auto` is bf16 where the device computes in it, else fp32.

    Raises:
        ConfigError: fp16 on a CPU.
    """
    on_gpu = torch.device(device).type == "cuda"
    if precision == "fp16" and not on_gpu:
        raise ConfigError("train.precision=fp16 needs a GPU; on a CPU take auto, bf16 or fp32")
    if precision != "auto":
        return precision
    if on_gpu:
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if native else "fp32"


def check(config: Config, device: torch.device | str) -> None:
    """Refuse, before anything starts, settings that cannot work on this device.

    Raises:
        ConfigError: one message with all of them.
    """
    mistakes = []
    on_gpu = torch.device(device).type == "cuda"
    stage, precision = config.engine.zero_stage, config.train.precision
    if precision == "fp16" and not on_gpu:
        mistakes.append("train.precision=fp16 needs a GPU; on a CPU take auto, bf16 or fp32")
    if config.engine.offload and not on_gpu:
        mistakes.append("engine.offload moves state from GPU to CPU memory; there is no GPU here")
    if config.engine.offload and stage == 0:
        mistakes.append("engine.offload needs engine.zero_stage 1, 2 or 3")
    if config.engine.attention == "flash" and not on_gpu:
        mistakes.append("engine.attention=flash needs a GPU; take auto, sdpa or eager")
    if mistakes:
        raise ConfigError("\n".join(mistakes))


def zero_stage(config: Config, precision: str) -> int:
    """The stage that DeepSpeed is told: `engine.zero_stage`, but 1 for 0 in half precision.

    Its stage 0 adds gradients up in half precision and does not scale the loss. Stage 1 does both
    rightly, sends no more between the workers, and on one of them is the same.
    """
    return max(config.engine.zero_stage, 1) if precision in HALF else config.engine.zero_stage


def deepspeed_settings(config: Config, split: Split, precision: str) -> dict[str, Any]:
    """DeepSpeed's configuration; everything in it follows from ours."""
    stage = zero_stage(config, precision)
    zero: dict[str, Any] = {
        "stage": stage,
        # Buckets are allocated whole: DeepSpeed's 500 M elements would dwarf a model of 100 M.
        "reduce_bucket_size": 25_000_000,
        "allgather_bucket_size": 100_000_000,
        "overlap_comm": torch.cuda.is_available(),
        "round_robin_gradients": False,
    }
    if config.engine.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    settings: dict[str, Any] = {
        # In an elastic run, what it would be if the workers' parts were equal.
        "train_batch_size": split.micro_batch * split.accumulation * split.world_size,
        "train_micro_batch_size_per_gpu": split.micro_batch,
        "gradient_accumulation_steps": split.accumulation,
        # Without ZeRO and in fp32, LAMB sees all gradients and clips them itself.
        "gradient_clipping": 0.0 if _lamb_clips(config, precision) else config.optim.clip,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }
    if precision in HALF:
        settings[precision] = {"enabled": True}
        # Sums in fp32 do not depend on how a batch was split; sums in half precision would.
        settings["communication_data_type"] = "fp32"
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
    return settings


def initialize(module: nn.Module, config: Config, split: Split, precision: str) -> Any:
    """A DeepSpeed engine around `module`, with our optimizer bound to it.

    Joins the process group that exists (Ray Train's), or makes the one that RANK and WORLD_SIZE
    describe, or one of a single process.

    Raises:
        ConfigError: settings that cannot work on this machine.
    """
    on_gpu = torch.cuda.is_available()
    check(config, "cuda" if on_gpu else "cpu")
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if on_gpu else "cpu")
    deepspeed = _quiet_deepspeed()
    join()
    deepspeed.init_distributed(dist_backend="nccl" if on_gpu else "gloo", verbose=False)
    if zero_stage(config, precision) != config.engine.zero_stage and not dist.get_rank():
        logger.warning(
            "engine.zero_stage=0 is taken for 1: DeepSpeed's own adds gradients up in %s", precision
        )
    if config.engine.activation_checkpointing:
        _checkpoint_activations(module)
    optim = config.optim
    optimizer = lamb.Lamb(
        lamb.parameter_groups(module, optim.weight_decay),
        lr=optim.lr,
        betas=optim.betas,
        eps=optim.eps,
        trust_ratio=optim.name == "lamb",
        max_gradient_norm=_clip_or_inf(optim.clip) if _lamb_clips(config, precision) else None,
    )
    if optim.name == "adamw":
        for group in optimizer.param_groups:
            group["trust_ratio"] = False
    given = {}
    if precision in HALF:
        given = {name: p.detach().clone() for name, p in module.named_parameters()}
    engine, *_ = deepspeed.initialize(
        model=module,
        optimizer=optimizer,
        config=deepspeed_settings(config, split, precision),
        dist_init_required=False,
    )
    lamb.bind(optimizer, engine)
    if precision in HALF:
        # DeepSpeed made the master weights from weights that it had rounded to half precision.
        for flat in locate(engine):
            flat.fill(flat.tensor.detach(), given.__getitem__)
    if config.engine.compile:
        engine.compile()
    return engine


def optimizer_of(engine: Any) -> lamb.Lamb:
    """Our optimizer, inside whatever DeepSpeed wrapped around it."""
    return engine.basic_optimizer


def gradient_norm(engine: Any) -> float:
    """Global gradient norm of the last step before clipping; infinite where fp16 overflowed."""
    norm = optimizer_of(engine).gradient_norm
    if norm is None:
        norm = engine.get_global_grad_norm()
    return float("nan") if norm is None else float(norm)


def weights_are_finite(engine: Any) -> bool:
    """Whether no rank has a master weight that is infinite or not a number; all ranks call it."""
    finite = torch.ones((), device=engine.device)
    for flat in locate(engine):
        master = flat.tensor.detach().view(-1)
        for fragment in flat.fragments:  # padding may hold anything
            part = master.narrow(0, fragment.offset, fragment.length)
            finite *= part.isfinite().all().to(engine.device)
    dist.all_reduce(finite, dist.ReduceOp.MIN)
    return bool(finite)


def full_state_dict(engine: Any) -> dict[str, Tensor] | None:
    """All weights in fp32 on the CPU of rank 0, by their Hugging Face names; None elsewhere.

    Every rank must call it. Of tied weights one is there, under its first name.
    """
    rank = dist.get_rank()
    weights: dict[str, Tensor] = {}
    for flat in locate(engine):
        for index, (name, shape) in enumerate(zip(flat.names, flat.shapes, strict=True)):
            full = _gather(engine, flat, index, shape)
            if rank == 0:
                weights[name] = full.to("cpu", torch.float32, copy=True)
    if rank != 0:
        return None
    persistent = engine.module.state_dict()
    weights |= {
        name: buffer.detach().to("cpu", copy=True)
        for name, buffer in engine.module.named_buffers()
        if name in persistent
    }
    return {name.removeprefix("network."): tensor for name, tensor in weights.items()}


def publish_master_weights(engine: Any) -> None:
    """Make the network's own weights follow master weights that were written from outside."""
    zero = engine.optimizer
    if hasattr(zero, "fp32_partitioned_groups_flat"):  # stage 3
        zero.checkpoint_event_prologue()
        for group, master in enumerate(zero.fp32_partitioned_groups_flat):
            zero.fp16_partitioned_groups_flat[group].data.copy_(master.data)
            zero._unflatten_partitioned_parameters(group)
        zero.checkpoint_event_epilogue()
    elif hasattr(zero, "update_lp_params"):  # stages 1 and 2
        zero.update_lp_params()


def _gather(engine: Any, flat: Flat, index: int, shape: torch.Size) -> Tensor:
    """A whole parameter of master weights, from the ranks that hold its fragments."""
    master = flat.tensor.detach()
    if flat.group is None:
        return master
    full = torch.zeros(shape.numel(), device=engine.device, dtype=master.dtype)
    for fragment in flat.fragments:
        if fragment.parameter == index:
            part = master.narrow(0, fragment.offset, fragment.length)
            full.narrow(0, fragment.start, fragment.length).copy_(part)
    dist.all_reduce(full, group=flat.group)
    return full.view(shape)


def _lamb_clips(config: Config, precision: str) -> bool:
    return zero_stage(config, precision) == 0


def _clip_or_inf(clip: float) -> float:
    """A norm that is never exceeded still has the norm computed, for the record."""
    return clip or float("inf")


def _quiet_deepspeed() -> Any:
    import deepspeed
    import deepspeed.ops
    from deepspeed.runtime import bf16_optimizer

    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    deepspeed.utils.logger.setLevel(logging.ERROR)
    # It prints 15 reports, and collects garbage before each, for seconds.
    bf16_optimizer.see_memory_usage = lambda *_, **__: None
    # It would be compiled, for over a minute, as soon as a process group exists on a CPU.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def join() -> None:
    """Join the process group of RANK and WORLD_SIZE, or one of this process, if there is none."""
    os.environ.setdefault("LOCAL_RANK", "0")
    if dist.is_initialized():
        return
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        dist.init_process_group(backend)
    else:
        store = dist.HashStore()
        dist.init_process_group(backend, store=store, rank=0, world_size=1)


def _checkpoint_activations(module: nn.Module) -> None:
    for part in module.modules():
        # transformers renamed the second to the first in 5.x.
        enable: Any = getattr(part, "activation_checkpointing_enable", None)
        enable = enable or getattr(part, "gradient_checkpointing_enable", None)
        if enable is not None:
            enable({"use_reentrant": False})
            return
    raise ConfigError(
        f"engine.activation_checkpointing: {type(module).__name__} cannot recompute activations"
    )
