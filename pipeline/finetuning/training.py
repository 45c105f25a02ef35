"""The training loop of a head: the recipe of `finetune`, and the best epoch kept."""

import copy
import math
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from pipeline.errors import ConfigError, TrainingError
from pipeline.finetuning.examples.features import training_batches
from pipeline.finetuning.judging.evaluation import Dataset, outputs_of, scores_of
from pipeline.finetuning.network import TaskNetwork
from pipeline.finetuning.step import Step
from pipeline.finetuning.tasks.base import Answer, TaskSetup
from pipeline.finetuning.workers import ALONE, Workers
from pipeline.precision import pick_device
from pipeline.progress import Say
from pipeline.settings.finetuning import FinetuneSettings

SECONDS_BETWEEN_LINES = 10.0
Report = Callable[[Mapping[str, float]], None]
LAYER = re.compile(r"\.layers?\.(\d+)\.")


class Trained(NamedTuple):
    """A network after training."""

    epochs: list[dict[str, float]]
    """`loss` and dev scores of each epoch."""
    dev: dict[str, float]
    """Scores of the best epoch."""
    answers: list[Answer]
    """Answers of the best epoch for the dev examples."""
    weights: dict[str, Any]
    """State dict of the best epoch."""
    setup: TaskSetup
    """That of the model, with what dev tells of it (`Task.tuned`)."""


def train(
    model: TaskNetwork,
    settings: FinetuneSettings,
    seed: int,
    datasets: Mapping[str, Dataset],
    say: Say,
    report: Report = lambda scores: None,
    workers: Workers = ALONE,
) -> Trained:
    """Train all epochs and keep the weights of the best on dev, or of the last without dev.

    Args:
        model: its network is moved to the device that computes.
        report: takes loss and dev scores after each epoch; it may end the training by raising.
        workers: share each batch; all of them call this with equal arguments and networks, and get
            the same result.

    Raises:
        ConfigError: fp16 without a GPU, or a `layer_decay` without an effect.
        TrainingError: the loss is not a number.
    """
    task, network = model.task, model.network
    features, dev_set = datasets["train"].features, datasets["dev"]
    device, fp16 = pick_device(), model.precision == "fp16"
    if fp16 and device.type != "cuda":
        raise ConfigError("finetune.precision=fp16 needs a GPU; choose auto, bf16 or fp32")
    network.to(device)
    steps = settings.epochs * math.ceil(len(features) / settings.batch)
    optimizer = torch.optim.AdamW(parameter_groups(network, settings), lr=settings.lr, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: rate_share(step, steps, settings.warmup)
    )
    scaler = torch.amp.GradScaler(device.type, enabled=fp16)
    step = Step(model, settings, datasets["train"], workers)
    epochs: list[dict[str, float]] = []
    best: Trained | None = None
    done, best_epoch, last_line = 0, 0, time.monotonic()
    for epoch in range(settings.epochs):
        network.train()
        total = torch.zeros((), device=device)
        for chosen in training_batches(features, settings.batch, seed, epoch):
            loss = step.backward(chosen, scaler)
            scaler.unscale_(optimizer)
            if settings.clip:
                nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
            scaler.step(optimizer)
            scaler.update()
            schedule.step()
            optimizer.zero_grad()
            total += loss * len(chosen)
            done += 1
            if time.monotonic() - last_line > SECONDS_BETWEEN_LINES:
                last_line = time.monotonic()
                say(f"step {done}/{steps} · loss {loss:.4f}")
        mean = float(total) / len(features)
        if not math.isfinite(mean):
            raise TrainingError(f"the loss of epoch {epoch + 1} is {mean}: lower finetune.lr")
        outputs = outputs_of(model, dev_set, settings.batch, workers)
        setup = task.tuned(model.setup, dev_set.examples, outputs)
        found = task.answers(dev_set.examples, outputs, setup)
        scores = scores_of(task, dev_set.examples, found, setup.labels)
        epochs.append({"loss": mean} | scores)
        on_dev = f" · dev {task.metric} {scores[task.metric]:.4f}" if scores else ""
        say(f"epoch {epoch + 1}/{settings.epochs} · loss {mean:.4f}{on_dev}")
        if best is None or not scores or scores[task.metric] > best.dev[task.metric]:
            best_epoch = epoch
            best = Trained(epochs, scores, found, copy.deepcopy(network.state_dict()), setup)
        report(epochs[-1])
        if settings.patience and epoch - best_epoch >= settings.patience:
            say(f"no better dev score in {settings.patience} epochs: stopped")
            break
    assert best is not None  # there is at least one epoch
    return best


def parameter_groups(network: nn.Module, settings: FinetuneSettings) -> list[dict[str, Any]]:
    """Groups of parameters with their learning rate and weight decay.

    Matrices get weight decay; biases and LayerNorm, which are vectors, get none. With `layer_decay`
    d, the head and the pooler have the rate `lr`, layer i of L has lr · d^(L−i), and the embeddings
    have lr · d^(L+1) (Clark et al. 2020, ELECTRA, appendix B).

    Raises ConfigError for a `layer_decay` where layers share their weights, as in ALBERT.
    """
    named = [(name, each) for name, each in network.named_parameters() if each.requires_grad]
    numbers = [int(found[1]) for name, _ in named if (found := LAYER.search(name))]
    if settings.layer_decay < 1 and not numbers:
        raise ConfigError(
            f"finetune.layer_decay={settings.layer_decay:g}: this network has no layers with "
            "weights of their own; leave it out"
        )
    layers = 1 + max(numbers, default=0)
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in named:
        if found := LAYER.search(name):
            below = layers - int(found[1])
        else:
            below = layers + 1 if ".embeddings." in name else 0
        group = groups.setdefault(
            (below if settings.layer_decay < 1 else 0, parameter.dim() > 1),
            {
                "params": [],
                "lr": settings.lr * settings.layer_decay**below,
                "weight_decay": settings.weight_decay if parameter.dim() > 1 else 0.0,
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


def rate_share(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate: it rises for a share of the steps, then falls to 0."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    return max(0.0, (steps - step) / max(1, steps - rising))
