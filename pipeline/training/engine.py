"""The DeepSpeed engine: precision, ZeRO, and our optimizer bound to it."""

import logging
import os
import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.constants import default_pg_timeout
from torch.distributed.rendezvous import rendezvous

from model.layers_nezha import NezhaLayer
from pipeline.errors import ConfigError, raise_all
from pipeline.precision import pick_device, resolve_precision
from pipeline.settings.config import Config
from pipeline.training.batch_split import Split
from pipeline.training.deepspeed_config import HALF, deepspeed_config
from pipeline.training.lamb import optimizer as lamb
from pipeline.training.lamb.fragments import locate


def check(config: Config, device: torch.device | str) -> None:
    """Refuse, before anything starts, settings that cannot work on this device.

    Raises:
        ConfigError: one message with all of them.
    """
    mistakes = []
    on_gpu = torch.device(device).type == "cuda"
    if config.train.precision == "fp16" and not on_gpu:
        mistakes.append("train.precision=fp16 needs a GPU; on a CPU take auto, bf16 or fp32")
    if config.engine.offload and not on_gpu:
        mistakes.append("engine.offload moves state from GPU to CPU memory; there is no GPU here")
    if config.engine.attention == "flash" and not on_gpu:
        mistakes.append("engine.attention=flash needs a GPU; take auto or eager")
    if config.engine.deepspeed and not mistakes:
        mistakes.extend(_refused_by_deepspeed(config, device))
    raise_all(ConfigError, mistakes)


def _refused_by_deepspeed(config: Config, device: torch.device | str) -> list[str]:
    """What DeepSpeed's own checks say about `engine.deepspeed`."""
    _import_deepspeed(device)
    from deepspeed.runtime.config import DeepSpeedConfig

    micro_batch = config.train.micro_batch
    workers = dist.get_world_size() if dist.is_initialized() else 1
    split = Split(micro_batch, workers, accumulation=1)
    precision = resolve_precision(config.train.precision, device)
    try:
        DeepSpeedConfig(deepspeed_config(config, split, precision))
    except Exception as error:  # of many types
        return [f"engine.deepspeed: DeepSpeed refuses it: {error}"]
    return []


def initialize(module: nn.Module, config: Config, split: Split, precision: str) -> Any:
    """A DeepSpeed engine around `module`, with our optimizer bound to it.

    Joins the process group that exists (Ray Train's), or makes the one that RANK and WORLD_SIZE
    describe, or one of a single process.

    Raises:
        ConfigError: settings that cannot work on this machine.
    """
    device = pick_device()
    join()
    deepspeed = _import_deepspeed(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    deepspeed.init_distributed(dist_backend=backend, verbose=False)
    check(config, device)
    if config.engine.activation_checkpointing:
        _checkpoint_activations(module)
    optim = config.optim
    optimizer = lamb.Lamb(
        lamb.parameter_groups(module, optim.weight_decay),
        lr=optim.lr,
        betas=optim.betas,
        eps=optim.eps,
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
        config=deepspeed_config(config, split, precision),
        dist_init_required=False,
    )
    lamb.bind(optimizer, engine)
    if precision in HALF:
        # DeepSpeed made the master weights from weights that it had rounded to half precision.
        for flat in locate(engine):
            flat.fill(flat.tensor.detach(), given.__getitem__)
    if config.engine.compile:
        compile_layers(module)
    return engine


def compile_layers(module: nn.Module) -> None:
    """Apply torch.compile to the layers: one program for all of them and for all micro-batches.

    To compile a whole network takes minutes.
    """
    for part in module.modules():
        if isinstance(part, NezhaLayer):
            part.compile(dynamic=True)


def optimizer_of(engine: Any) -> lamb.Lamb:
    """Our optimizer, inside what DeepSpeed wrapped around it."""
    return engine.basic_optimizer


def gradient_norm(engine: Any) -> float:
    """Global gradient norm of the last step before clipping; infinite where fp16 overflowed."""
    norm = engine.get_global_grad_norm()
    return float("nan") if norm is None else float(norm)


def skip_at_least_scale(engine: Any) -> None:
    """Let fp16 skip steps at its least loss scale too, where DeepSpeed ends the process.

    It comes after `checkpoints.state.restore`, which restores all numbers of the scaler.
    """
    scaler = getattr(engine.optimizer, "loss_scaler", None)
    if scaler is not None and scaler.dynamic:
        scaler.raise_error_at_min_scale = False


def may_lower_scale(engine: Any) -> bool:
    """Whether the loss scale can fall, so that a step which overflows is part of its search."""
    scaler = getattr(engine.optimizer, "loss_scaler", None)
    return bool(scaler is not None and scaler.dynamic and scaler.cur_scale > scaler.min_scale)


def weights_are_finite(engine: Any) -> bool:
    """Whether every master weight of every rank is finite; all ranks call it."""
    finite = torch.ones((), device=engine.device)
    for flat in locate(engine):
        master = flat.tensor.detach().view(-1)
        for _, _, offset, length in flat.fragments:  # padding may hold anything
            finite *= master.narrow(0, offset, length).isfinite().all().to(engine.device)
    dist.all_reduce(finite, dist.ReduceOp.MIN)
    return bool(finite)


def publish_master_weights(engine: Any) -> None:
    """Copy master weights that were written from outside into the network's own weights."""
    zero = engine.optimizer
    if hasattr(zero, "fp32_partitioned_groups_flat"):  # stage 3
        zero.checkpoint_event_prologue()
        for group, master in enumerate(zero.fp32_partitioned_groups_flat):
            zero.fp16_partitioned_groups_flat[group].data.copy_(master.data)
            zero._unflatten_partitioned_parameters(group)
        zero.checkpoint_event_epilogue()
    else:
        zero.update_lp_params()


def join() -> None:
    """Join the process group of RANK and WORLD_SIZE, or one of this process, if there is none."""
    os.environ.setdefault("LOCAL_RANK", "0")
    if dist.is_initialized():
        return
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        found, rank, world_size = next(rendezvous("env://"))
        # Workers that torchrun has started again share the store of those that failed, and would
        # connect to their addresses.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.PrefixStore(f"attempt_{attempt}", found)
        store.set_timeout(default_pg_timeout)  # that of the store is shorter; rank 0 checks shards
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)


def _import_deepspeed(device: torch.device | str) -> Any:
    """DeepSpeed for this device, without its reports and without compiling anything."""
    os.environ.setdefault("DS_ACCELERATOR", torch.device(device).type)
    import deepspeed
    import deepspeed.ops
    from deepspeed.runtime import bf16_optimizer

    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    deepspeed.utils.logger.setLevel(logging.ERROR)
    # It prints 15 reports and collects garbage before each, which takes seconds.
    bf16_optimizer.see_memory_usage = lambda *_, **__: None
    # DeepSpeed would compile it, for over a minute, as soon as a CPU has a process group.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


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
