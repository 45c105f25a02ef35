"""Features, the inputs of the network that are made from examples, and batches of them."""

import random
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipeline.labels import IGNORED

_POOL = 64


class Tokens(NamedTuple):
    """Token ids of one input sequence of the network, and their segments."""

    ids: list[int]
    types: list[int]


class Feature(NamedTuple):
    """One example, one window of a long example, or all choices of one example."""

    example: int
    """Number of the example that it was made from."""
    inputs: list[Tokens]
    """One sequence; for multiple choice, one for each choice."""
    target: list[Any]
    """Class: [1]; a number, of a regression: [1] float; several labels: [K] of 0 and
    1. Entities: one label for each token, -100 for tokens that are not scored. Span: first and last
    token."""
    origin: list[tuple[int, int]]
    """What each token was made from: entities (word, word + 1), span (start, end) characters of the
    context, (-1, -1) for all other tokens."""

    @property
    def length(self) -> int:
        """Tokens of the longest input sequence."""
        return max(len(each.ids) for each in self.inputs)


class FeatureBatch(NamedTuple):
    """B features, padded to S tokens, and to C choices where `choices` is given."""

    inputs: dict[str, Tensor]
    """input_ids, token_type_ids, attention_mask: int64 [B, S], or [B, C, S]."""
    target: Tensor
    """int64 [B, 1] classes, [B, K] labels that hold or not, [B, S] labels of tokens, or [B, 2]
    first and last token; float32 [B, 1] of a regression."""
    choices: Tensor | None
    """bool [B, C]: false where a choice is padding."""


def collate(features: Sequence[Feature], pad_id: int, multiple_choice: bool) -> FeatureBatch:
    """Pad features to the longest one; for multiple choice, also to the most choices."""
    choices = max(len(feature.inputs) for feature in features)
    length = max(feature.length for feature in features)
    ids = torch.full((len(features), choices, length), pad_id)
    types, mask = torch.zeros_like(ids), torch.zeros_like(ids)
    # A padding choice still shows one token, because attention over no token gives NaN.
    mask[:, :, 0] = 1
    for i, feature in enumerate(features):
        for j, each in enumerate(feature.inputs):
            ids[i, j, : len(each.ids)] = torch.tensor(each.ids)
            types[i, j, : len(each.ids)] = torch.tensor(each.types)
            mask[i, j, : len(each.ids)] = 1
    inputs = {"input_ids": ids, "token_type_ids": types, "attention_mask": mask}
    width = max(len(feature.target) for feature in features)
    numbers = any(isinstance(each, float) for feature in features for each in feature.target)
    kind = torch.float32 if numbers else torch.int64
    target = torch.full((len(features), width), IGNORED, dtype=kind)
    for i, feature in enumerate(features):
        target[i, : len(feature.target)] = torch.tensor(feature.target, dtype=kind)
    if not multiple_choice:
        inputs = {name: tensor.squeeze(1) for name, tensor in inputs.items()}
        return FeatureBatch(inputs, target, None)
    present = [[j < len(feature.inputs) for j in range(choices)] for feature in features]
    return FeatureBatch(inputs, target, torch.tensor(present))


def training_batches(
    features: Sequence[Feature], size: int, seed: int, epoch: int
) -> Iterator[Sequence[Feature]]:
    """All features once, in an order that depends on seed and epoch alone.

    Features of similar length share a batch: the shuffled features are sorted within pools of 64
    batches, and then the batches are shuffled.
    """
    draw = random.Random(f"{seed} {epoch}")
    order = list(features)
    draw.shuffle(order)
    batches = []
    for start in range(0, len(order), _POOL * size):
        pool = sorted(order[start : start + _POOL * size], key=lambda feature: feature.length)
        batches += [pool[i : i + size] for i in range(0, len(pool), size)]
    draw.shuffle(batches)
    yield from batches
