"""Embeddings of an export at the scale that fine-tuning expects."""

import math

import torch

from model import NezhaForPreTraining


@torch.no_grad()
def rescale_embeddings(network: NezhaForPreTraining) -> int:
    """Bring the word embeddings to about the scale that they began with, in place.

    LAMB lets them grow: at the sample run's rate to six times `initializer_range`. A LayerNorm
    follows them, so their scale does not matter to the network. It does to fine-tuning, whose AdamW
    moves every weight equally far: large ones hardly change (entities of the sample run: F1 0.46
    as they are, 0.57 rescaled). All embeddings are divided by one power of two, and the LayerNorm
    before the decoder, which has the same weights, is multiplied by it. Answers stay the same: only
    exponents of floating-point numbers change, beside the epsilon of one LayerNorm.

    Returns:
        the power: 3 if the embeddings were divided by 8.
    """
    embeddings, head = network.nezha.embeddings, network.cls.predictions
    deviation = float(embeddings.word_embeddings.weight.std())
    power = round(math.log2(deviation / network.config.initializer_range)) if deviation else 0
    for name, weight in embeddings.named_parameters():
        if "LayerNorm" not in name:
            weight.mul_(2.0**-power)
    if head.decoder.weight is embeddings.word_embeddings.weight:
        for weight in head.transform.LayerNorm.parameters():
            weight.mul_(2.0**power)
    return power
