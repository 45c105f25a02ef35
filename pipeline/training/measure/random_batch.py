"""A batch to measure a network with, before there is a corpus."""

import math

import torch

from pipeline.settings.config import Config
from pipeline.training.objective import Inputs
from pipeline.training.start.network import vocabulary_size

CPU = torch.device("cpu")


def random_batch(
    config: Config, samples: int, mean_length: float = math.inf, device: torch.device = CPU
) -> Inputs:
    """Random tokens with the share of masks that training has.

    Args:
        config: gives the length, the share of masks and the vocabulary.
        samples: of the batch.
        mean_length: tokens of a sample. One sample is full, because a batch is padded to its
            longest sample where attention needs that; the others share the rest.
    """
    corpus, draw = config.corpus, torch.Generator().manual_seed(0)
    width = corpus.sequence_length
    rest = (samples * min(mean_length, width) - width) / max(1, samples - 1)
    lengths = torch.tensor([width] + [max(1, round(rest))] * (samples - 1))
    tokens = int(lengths.sum())
    ids = torch.randint(5, vocabulary_size(config), (tokens,), generator=draw)
    masks = max(1, int(corpus.masking.probability * tokens))
    masked = torch.randperm(tokens, generator=draw)[:masks].sort().values
    return Inputs(
        input_ids=ids.to(device),
        token_type_ids=torch.zeros_like(ids).to(device),
        cu_seqlens=torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).int().to(device),
        longest=width,
        masked_positions=masked.to(device),
        masked_labels=ids[masked].to(device),
        next_sentence_label=torch.randint(0, 2, (samples,), generator=draw).to(device),
    )
