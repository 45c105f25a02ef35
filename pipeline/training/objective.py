"""MLM + NSP as one loss whose gradient does not depend on how a global batch was split."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model import NezhaForPreTraining
from pipeline.feed.batches import Batch

STATISTICS = ("mlm_loss", "mlm_correct", "masked", "nsp_loss", "nsp_correct", "pairs")


class Inputs(NamedTuple):
    """A batch on the device; B samples of S tokens, M of them masked."""

    input_ids: Tensor
    """[B, S] int64"""
    token_type_ids: Tensor
    """[B, S] int64"""
    attention_mask: Tensor
    """[B, S] int64"""
    masked_positions: Tensor
    """[M] int64, indices into B·S"""
    masked_labels: Tensor
    """[M] int64"""
    next_sentence_label: Tensor
    """[B] int64; -100 where the corpus has no label"""


def to_device(batch: Batch, device: torch.device) -> Inputs:
    """Tensors of the arrays that the objective reads."""
    return Inputs(
        *(
            torch.from_numpy(getattr(batch, name)).to(device, non_blocking=True)
            for name in Inputs._fields
        )
    )


class PretrainingObjective(nn.Module):
    """Sums of the losses over a micro-batch; the vocabulary head runs on masked tokens alone."""

    def __init__(self, network: NezhaForPreTraining) -> None:
        super().__init__()
        self.network = network

    def forward(
        self,
        inputs: Inputs,
        masked_total: float = 1.0,
        pairs_total: float = 1.0,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss of a micro-batch as its part of a larger batch.

        Args:
            inputs: the micro-batch.
            masked_total: masked tokens of the larger batch; the MLM sum is divided by it.
            pairs_total: sentence pairs of the larger batch; the NSP sum is divided by it.

        Returns:
            the loss (scalar; parts of a batch add up to the mean loss of the whole), float32
            sums in the order of STATISTICS [6], and which masked tokens were told right (bool [M]).
        """
        hidden = self.network.nezha(
            inputs.input_ids,
            attention_mask=inputs.attention_mask,
            token_type_ids=inputs.token_type_ids,
        )
        tokens = hidden.last_hidden_state.flatten(0, 1)
        masked = tokens.index_select(0, inputs.masked_positions)
        mlm_logits = self.network.cls.predictions(masked).float()
        nsp_logits = self.network.cls.seq_relationship(hidden.pooler_output).float()
        mlm = F.cross_entropy(mlm_logits, inputs.masked_labels, reduction="sum")
        nsp = F.cross_entropy(
            nsp_logits, inputs.next_sentence_label, reduction="sum", ignore_index=-100
        )
        with torch.no_grad():
            right = mlm_logits.argmax(-1) == inputs.masked_labels
            labelled = inputs.next_sentence_label != -100
            statistics = torch.stack(
                [
                    mlm,
                    right.sum(),
                    mlm.new_tensor(len(inputs.masked_labels)),
                    nsp,
                    (nsp_logits.argmax(-1) == inputs.next_sentence_label).sum(),
                    labelled.sum(),
                ]
            )
        return mlm / masked_total + nsp / pairs_total, statistics, right


def summarize(statistics: Tensor) -> dict[str, float]:
    """Means from sums in the order of STATISTICS [6]; NSP is left out where nothing is labelled."""
    sums = dict(zip(STATISTICS, statistics.tolist(), strict=True))
    masked, pairs = max(sums["masked"], 1.0), sums["pairs"]
    means = {"mlm_loss": sums["mlm_loss"] / masked, "mlm_accuracy": sums["mlm_correct"] / masked}
    if pairs:
        means |= {"nsp_loss": sums["nsp_loss"] / pairs, "nsp_accuracy": sums["nsp_correct"] / pairs}
    means["loss"] = means["mlm_loss"] + means.get("nsp_loss", 0.0)
    return means
