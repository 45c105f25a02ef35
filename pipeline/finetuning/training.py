"""The training loop of a head: one recipe, all epochs, the best one kept."""

from __future__ import annotations

import copy
import math
import time
from typing import Any, NamedTuple

import torch
from torch import nn

from pipeline.errors import TrainingError
from pipeline.finetuning.evaluation import Dataset, evaluate
from pipeline.finetuning.features import collate, training_batches
from pipeline.finetuning.network import Show, forward, loss_of, pick_device
from pipeline.finetuning.tasks.base import Task, TaskSetup
from pipeline.settings.finetuning import FinetuneSettings

WARMUP = 0.1
"""Share of the steps in which the learning rate rises."""
CLIP = 1.0
"""Largest gradient norm."""
WEIGHT_DECAY = 0.01
SECONDS_BETWEEN_LINES = 10.0


class Trained(NamedTuple):
    """A network after training."""

    epochs: list[dict[str, float]]
    """`loss` and dev scores of each epoch."""
    dev: dict[str, float]
    """Scores of the best epoch."""
    weights: dict[str, Any]
    """State dict of the best epoch."""


def train(
    task: Task,
    network: nn.Module,
    settings: FinetuneSettings,
    seed: int,
    datasets: dict[str, Dataset],
    setup: TaskSetup,
    show: Show,
) -> Trained:
    """Train all epochs and keep the weights of the best on dev, or of the last without dev.

    Raises TrainingError when the loss is not a number.
    """
    features, pad_id = datasets["train"].features, setup.tokenizer.pad_token_id
    device = pick_device()
    network.to(device)
    steps = settings.epochs * math.ceil(len(features) / settings.batch)
    optimizer = torch.optim.AdamW(parameter_groups(network), lr=settings.lr, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_share(step, steps))
    epochs: list[dict[str, float]] = []
    dev: dict[str, float] = {}
    weights: dict[str, Any] = {}
    step, last_line = 0, time.monotonic()
    for epoch in range(settings.epochs):
        network.train()
        total = torch.zeros((), device=device)
        for chosen in training_batches(features, settings.batch, seed, epoch):
            batch = collate(chosen, pad_id, task.multiple_choice)
            loss = loss_of(forward(task, network, batch, device), batch.target)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), CLIP)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            total += loss.detach() * len(chosen)
            step += 1
            if time.monotonic() - last_line > SECONDS_BETWEEN_LINES:
                last_line = time.monotonic()
                show(f"step {step}/{steps} · loss {loss:.4f}")
        mean = float(total) / len(features)
        if not math.isfinite(mean):
            raise TrainingError(f"the loss of epoch {epoch + 1} is {mean}: lower finetune.lr")
        scores = evaluate(task, network, datasets["dev"], settings.batch, setup)
        epochs.append({"loss": mean} | scores)
        on_dev = f" · dev {task.metric} {scores[task.metric]:.4f}" if scores else ""
        show(f"epoch {epoch + 1}/{settings.epochs} · loss {mean:.4f}{on_dev}")
        if not scores or not dev or scores[task.metric] > dev[task.metric]:
            dev, weights = scores, copy.deepcopy(network.state_dict())
    return Trained(epochs, dev, weights)


def parameter_groups(network: nn.Module) -> list[dict[str, Any]]:
    """Matrices get weight decay; biases and LayerNorm, which are vectors, get none."""
    parameters = [each for each in network.parameters() if each.requires_grad]
    return [
        {"params": [each for each in parameters if each.dim() > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [each for each in parameters if each.dim() < 2], "weight_decay": 0.0},
    ]


def rate_share(step: int, steps: int) -> float:
    """Share of the peak learning rate: linear warm-up, then linear decay to 0."""
    warmup = max(1, round(WARMUP * steps))
    if step < warmup:
        return (step + 1) / warmup
    return max(0.0, (steps - step) / max(1, steps - warmup))
