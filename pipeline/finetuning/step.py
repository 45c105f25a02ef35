"""The gradient of one batch: loss, micro-batches, R-Drop and adversarial examples."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.errors import TaskError
from pipeline.finetuning.examples.features import IGNORED, Feature, FeatureBatch, collate
from pipeline.finetuning.judging.evaluation import Dataset
from pipeline.finetuning.network import forward, loss_sum, target_weight
from pipeline.finetuning.regularizers import (
    adversarial,
    divergence_sum,
    moved_embeddings,
    word_embeddings,
)
from pipeline.finetuning.tasks.base import Task, TaskSetup
from pipeline.finetuning.workers import ALONE, Workers
from pipeline.settings.finetuning import FinetuneSettings


class Step:
    """Gradients of one batch that workers share, in micro-batches where settings ask for them."""

    def __init__(
        self,
        task: Task,
        network: nn.Module,
        settings: FinetuneSettings,
        setup: TaskSetup,
        dataset: Dataset,
        device: torch.device,
        workers: Workers = ALONE,
    ) -> None:
        self._task, self._network, self._device = task, network, device
        self._workers = workers
        self._pad_id = setup.tokenizer.pad_token_id
        self._precision = settings.precision
        self._r_drop, self._fgm = settings.r_drop, settings.fgm
        self._size = settings.micro_batch or settings.batch
        targets = [each for feature in dataset.features for each in feature.target]
        self._weights = label_weights(settings, setup.labels, targets)
        self._on_device = None if self._weights is None else self._weights.to(device)

    def backward(self, chosen: Sequence[Feature], scaler: torch.amp.GradScaler) -> Tensor:
        """Give all workers the gradient of the mean loss of a batch; returns the loss, a scalar.

        The parameters must have no gradient before. With `fgm`, the gradient is that of the loss
        plus the loss of the adversarial examples; the loss that is returned is the first one.
        """
        targets = torch.tensor([each for feature in chosen for each in feature.target])
        weight, own = target_weight(targets, self._weights), self._workers.share(chosen)
        if not own:
            # An example without a weight: this worker then has gradients like the others, of 0.
            weight, own = math.inf, chosen[:1]
        batches = [
            collate(own[i : i + self._size], self._pad_id, self._task.multiple_choice)
            for i in range(0, len(own), self._size)
        ]
        total = torch.zeros((), device=self._device)
        for batch in batches:
            if not self._fgm:
                total += self._add(batch, weight, scaler)
                continue
            width = word_embeddings(self._network).embedding_dim
            shape = *batch.inputs["input_ids"].shape, width
            move = torch.zeros(shape, device=self._device, requires_grad=True)
            total += self._add(batch, weight, scaler, move)
            assert move.grad is not None  # the word embeddings are used
            self._add(batch, weight, scaler, adversarial(move.grad, self._fgm))
        return self._workers.add_up(self._network, total)

    def _add(
        self,
        batch: FeatureBatch,
        weight: float,
        scaler: torch.amp.GradScaler,
        move: Tensor | None = None,
    ) -> Tensor:
        """Add the gradient of a micro-batch's part of the loss; returns that part."""
        with moved_embeddings(self._network, move):
            logits = [
                forward(self._task, self._network, batch, self._device, self._precision)
                for _ in range(2 if self._r_drop else 1)
            ]
        sums = [loss_sum(each, batch.target, self._on_device) for each in logits]
        loss = sums[0]
        if self._r_drop:
            divergence = divergence_sum(logits[0], logits[1], batch.target, self._on_device)
            loss = (sums[0] + sums[1]) / 2 + self._r_drop * divergence
        loss = loss / max(weight, 1e-9)
        scaler.scale(loss).backward()
        return loss.detach()


def label_weights(
    settings: FinetuneSettings, labels: Sequence[str], targets: Sequence[int]
) -> Tensor | None:
    """fp32 [K] weights of the labels in the loss; None where all have 1.

    `balanced` gives a label N / (K · its number of the N targets), as in scikit-learn. Raises
    TaskError for a weight of a label that does not occur in the training examples.
    """
    chosen = settings.label_weights
    if not chosen:
        return None
    if chosen == "balanced":
        counts = torch.bincount(
            torch.tensor([each for each in targets if each != IGNORED]), minlength=len(labels)
        )
        return counts.sum() / (len(labels) * counts.clamp(min=1).float())
    assert isinstance(chosen, dict)
    if unknown := sorted(set(chosen) - set(labels)):
        raise TaskError(
            f"finetune.label_weights: label {unknown[0]!r} does not occur in the training examples "
            f"({', '.join(labels)})"
        )
    return torch.tensor([chosen.get(label, 1.0) for label in labels])
