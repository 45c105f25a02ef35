"""MLM + NSP as one loss whose gradient does not depend on how a global batch was split."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model import NezhaForPreTraining
from model.fused.dropout import masks_by_sample
from pipeline.feed.collate import Batch
from pipeline.labels import IGNORED
from pipeline.training.transfer import upload

STATISTICS = ("mlm_loss", "mlm_correct", "masked", "nsp_loss", "nsp_correct", "pairs")


class Inputs(NamedTuple):
    """A batch on the device without padding; B samples of T tokens in all, M of them masked."""

    input_ids: Tensor
    """[T] int64, the samples end to end"""
    token_type_ids: Tensor
    """[T] int64"""
    cu_seqlens: Tensor
    """[B + 1] int32, where each sample begins"""
    longest: int
    """Tokens of the longest sample."""
    masked_positions: Tensor
    """[M] int64, indices into T"""
    masked_labels: Tensor
    """[M] int64"""
    next_sentence_label: Tensor
    """[B] int64; -100 where the corpus has no label"""


def to_device(batch: Batch, device: torch.device) -> Inputs:
    """What the objective reads of a padded batch."""
    inside = batch.attention_mask.astype(bool)
    lengths = inside.sum(axis=1)
    begins = np.concatenate([[0], np.cumsum(lengths)])
    row, column = np.divmod(batch.masked_positions, batch.input_ids.shape[1])

    def tensor(array: np.ndarray) -> Tensor:
        return upload(torch.from_numpy(array), device)

    return Inputs(
        input_ids=tensor(batch.input_ids[inside]),
        token_type_ids=tensor(batch.token_type_ids[inside]),
        cu_seqlens=tensor(begins.astype(np.int32)),
        longest=int(lengths.max()),
        masked_positions=tensor(begins[row] + column),
        masked_labels=tensor(batch.masked_labels),
        next_sentence_label=tensor(batch.next_sentence_label),
    )


@contextmanager
def dropout_of(batch: Batch, seed: int, step: int) -> Iterator[None]:
    """Dropout of a micro-batch, forward and backward, as a function of (seed, step, sample).

    So a step has the same loss on any number of workers, and after a restart. On a GPU, where masks
    are drawn for a whole micro-batch, that holds for the same micro-batches.
    """
    # `torch.manual_seed` also formats a traceback for each kind of device not in use: 3 ms a step.
    torch.default_generator.manual_seed(_number_of(seed, step))
    if torch.cuda.is_available():
        torch.cuda.manual_seed(_number_of(seed, step, int(batch.samples[0])))
    lengths = batch.attention_mask.sum(axis=1)
    keys = torch.from_numpy(batch.samples.astype(np.int64))
    with masks_by_sample(keys, torch.from_numpy(lengths)):
        yield


def _number_of(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class PretrainingObjective(nn.Module):
    """Sums of the losses over a micro-batch; the vocabulary head runs on masked tokens alone."""

    def __init__(self, network: NezhaForPreTraining, nsp_weight: float = 1.0) -> None:
        super().__init__()
        self.network, self.nsp_weight = network, nsp_weight

    def forward(
        self, inputs: Inputs, masked_total: float = 1.0, pairs_total: float = 1.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss of a micro-batch as its part of a larger batch.

        Args:
            inputs: the micro-batch.
            masked_total: masked tokens of the larger batch; the MLM sum is divided by it.
            pairs_total: sentence pairs of the larger batch; the NSP sum is divided by it.

        Returns:
            the loss (scalar; parts of a batch add up to the mean loss of the whole), float32
            sums in the order of STATISTICS [6], and which masked tokens were predicted right (bool
            [M]).
        """
        hidden = self.network.nezha(
            inputs.input_ids[None],
            token_type_ids=inputs.token_type_ids[None],
            cu_seq_lens_q=inputs.cu_seqlens,
            max_length_q=inputs.longest,
        )
        masked = hidden.last_hidden_state.squeeze(0).index_select(0, inputs.masked_positions)
        mlm, right = self.network.cls.predictions(masked, inputs.masked_labels)
        nsp_logits = self.network.cls.seq_relationship(hidden.pooler_output).float()
        nsp = F.cross_entropy(
            nsp_logits, inputs.next_sentence_label, reduction="sum", ignore_index=IGNORED
        )
        with torch.no_grad():
            labelled = inputs.next_sentence_label != IGNORED
            statistics = torch.stack(
                [
                    mlm,
                    right.sum(),
                    mlm.new_full((), len(inputs.masked_labels)),
                    nsp,
                    (nsp_logits.argmax(-1) == inputs.next_sentence_label).sum(),
                    labelled.sum(),
                ]
            )
        return mlm / masked_total + self.nsp_weight * nsp / pairs_total, statistics, right


def summarize(statistics: Tensor, nsp_weight: float = 1.0) -> dict[str, float]:
    """Means from sums in the order of STATISTICS [6], and their `loss`, which is what is trained.

    NSP is left out where nothing is labelled. The others are NaN where nothing is masked, as after
    steps that were skipped.
    """
    sums = dict(zip(STATISTICS, statistics.tolist(), strict=True))
    masked, pairs = sums["masked"] or math.nan, sums["pairs"]
    means = {"mlm_loss": sums["mlm_loss"] / masked, "mlm_accuracy": sums["mlm_correct"] / masked}
    if pairs:
        means |= {"nsp_loss": sums["nsp_loss"] / pairs, "nsp_accuracy": sums["nsp_correct"] / pairs}
    means["loss"] = means["mlm_loss"] + nsp_weight * means.get("nsp_loss", 0.0)
    return means
