"""The gradient of one batch: shares of workers, micro-batches, weights of labels."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.finetuning.examples.features import Feature
from pipeline.finetuning.judging.evaluation import Dataset
from pipeline.finetuning.network import TaskNetwork, forward, loss_sum, target_weight
from pipeline.finetuning.workers import ALONE, Workers
from pipeline.labels import IGNORED
from pipeline.settings.finetuning import FinetuneSettings


class Step:
    """Gradients of one batch that workers share, in micro-batches where settings ask for them."""

    def __init__(
        self,
        model: TaskNetwork,
        settings: FinetuneSettings,
        dataset: Dataset,
        workers: Workers = ALONE,
    ) -> None:
        self._model, self._device, self._workers = model, model.device, workers
        self._size = settings.micro_batch or settings.batch
        targets = [each for feature in dataset.features for each in feature.target]
        self._weights = label_weights(settings, model.setup.labels, targets)
        self._on_device = None if self._weights is None else self._weights.to(self._device)

    def backward(self, chosen: Sequence[Feature], scaler: torch.amp.GradScaler) -> Tensor:
        """Give all workers the gradient of the mean loss of a batch; returns the loss, a scalar.

        The parameters must have no gradient before.
        """
        targets = torch.tensor([each for feature in chosen for each in feature.target])
        weight, own = target_weight(targets, self._weights), self._workers.share(chosen)
        if not own:
            # An example without a weight: this worker then has gradients like the others, of 0.
            weight, own = math.inf, chosen[:1]
        total = torch.zeros((), device=self._device)
        for start in range(0, len(own), self._size):
            batch = self._model.collate(own[start : start + self._size])
            logits = forward(self._model, batch)
            loss = loss_sum(logits, batch.target, self._on_device) / max(weight, 1e-9)
            scaler.scale(loss).backward()
            total += loss.detach()
        return self._workers.add_up(self._model.network, total)


def label_weights(
    settings: FinetuneSettings, labels: Sequence[str], targets: Sequence[int]
) -> Tensor | None:
    """fp32 [K] weights of the labels in the loss; None where all have 1.

    `balanced` gives a label N / (K · its number of the N targets), as in scikit-learn.
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
    return torch.tensor([chosen.get(label, 1.0) for label in labels])
