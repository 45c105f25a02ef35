"""Rows, what the network sees of examples, and the batches made of them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

IGNORED = -100
_POOL = 64


class Tokens(NamedTuple):
    """Token ids of one input of the network, and their segments."""

    ids: list[int]
    types: list[int]


class Row(NamedTuple):
    """An example, a window of a long one, or all choices of one."""

    example: int
    """Which example it is (part of)."""
    inputs: list[Tokens]
    """One; for multiple choice, one a choice."""
    target: list[int]
    """Class: [1]. Entities: a label a token, -100 where none counts. Span: first and last token."""
    origin: list[tuple[int, int]]
    """For each token what it came from: entities (word, word + 1), span (start, end) characters of
    the context, (-1, -1) where it came from neither."""

    @property
    def length(self) -> int:
        """Tokens of the longest input."""
        return max(len(each.ids) for each in self.inputs)


class RowBatch(NamedTuple):
    """B rows, padded; C is the number of choices where `choices` is given."""

    inputs: dict[str, Tensor]
    """input_ids, token_type_ids, attention_mask: int64 [B, S], or [B, C, S]."""
    target: Tensor
    """int64 [B] classes, [B, S] labels, or [B, 2] first and last token."""
    choices: Tensor | None
    """bool [B, C]: the choices that are there, not padding."""


def collate(rows: Sequence[Row], pad_id: int, many: bool) -> RowBatch:
    """Pad rows to the longest; with `many`, to the most choices too."""
    choices, length = max(len(row.inputs) for row in rows), max(row.length for row in rows)
    ids = torch.full((len(rows), choices, length), pad_id)
    types, mask = torch.zeros_like(ids), torch.zeros_like(ids)
    # An absent choice still shows one token, or attention over nothing would give NaN.
    mask[:, :, 0] = 1
    for i, row in enumerate(rows):
        for j, each in enumerate(row.inputs):
            ids[i, j, : len(each.ids)] = torch.tensor(each.ids)
            types[i, j, : len(each.ids)] = torch.tensor(each.types)
            mask[i, j, : len(each.ids)] = 1
    inputs = {"input_ids": ids, "token_type_ids": types, "attention_mask": mask}
    there = torch.tensor([[j < len(row.inputs) for j in range(choices)] for row in rows])
    width = max(len(row.target) for row in rows)
    target = torch.full((len(rows), width), IGNORED)
    for i, row in enumerate(rows):
        target[i, : len(row.target)] = torch.tensor(row.target)
    if not many:
        inputs = {name: tensor.squeeze(1) for name, tensor in inputs.items()}
    return RowBatch(inputs, target, there if many else None)


def training_batches(
    rows: Sequence[Row], size: int, seed: int, epoch: int
) -> Iterator[Sequence[Row]]:
    """All rows once, in an order that depends on seed and epoch alone.

    Rows of like length share a batch: the shuffled rows are sorted within pools of 64 batches, and
    the batches shuffled.
    """
    draw = random.Random(f"{seed} {epoch}")
    order = list(rows)
    draw.shuffle(order)
    batches = []
    for start in range(0, len(order), _POOL * size):
        pool = sorted(order[start : start + _POOL * size], key=lambda row: row.length)
        batches += [pool[i : i + size] for i in range(0, len(pool), size)]
    draw.shuffle(batches)
    yield from batches
