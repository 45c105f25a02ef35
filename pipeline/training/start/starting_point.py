"""Weights of another network or vocabulary, changed to fit the network of a run.

Depth: layer i takes the weights of layer i mod n of n given layers: a deeper network is a stack of
the given one (Gong et al. 2019), a shallower one its first layers.

Width: a multiple of the given one. Each neuron is copied, and the weights that read the copies are
shares of the given weights, drawn at random, which add up to them. The network computes what the
given one computes, and the copies get different gradients (Net2Net, Chen et al. 2016; for
transformers bert2BERT, Chen et al. 2022). Word vectors are divided by the number of copies instead:
the layer norm after them removes the factor, and the output layer, which is tied to them, needs it.

Vocabulary: a token keeps its vector. A new token gets the mean of the vectors of the word pieces
that it had in the given vocabulary, or of all vectors if it had none.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor

from model import NezhaConfig, NezhaForPreTraining
from model.weights.convert import (
    ABSOLUTE,
    TIED,
    WeightsError,
    completed,
    config_beside,
    read_config,
    read_weights,
    renamed,
)
from pipeline.corpus.samples.vocabulary import read_vocabulary
from pipeline.errors import CheckpointError

SAME = ("hidden_act", "layer_norm_eps", "type_vocab_size")
"""Fields of the network that cannot differ."""
WIDTHS = ("hidden_size", "intermediate_size", "num_attention_heads")
"""Fields that may be a multiple of the given network's."""
LAYER = r"(?<=encoder\.layer\.)\d+"
BY_TOKEN = ("nezha.embeddings.word_embeddings.weight", "cls.predictions.bias")
"""Weights with a row for each entry of the vocabulary."""


class Given(NamedTuple):
    """A folder with weights of a NEZHA or a BERT, and its vocabulary."""

    config: NezhaConfig
    weights: dict[str, Tensor]
    vocabulary: dict[str, int]


def read(path: Path) -> Given:
    """Read an export, or a public NEZHA or BERT: configuration, weights and `vocab.txt`.

    Raises:
        CheckpointError: the folder is none of them.
        VocabularyError: it has no usable `vocab.txt`.
    """
    try:
        config, weights = read_config(config_beside(path)), renamed(read_weights(path))
    except WeightsError as error:
        raise CheckpointError(
            f"{error}; train.init_adapt needs a folder with config.json, weights and vocab.txt, "
            "such as an export (jobs.export makes one from a checkpoint)"
        ) from None
    given = Given(config, completed(weights), read_vocabulary(path / "vocab.txt"))
    if wrong := _contradictions(given):
        raise CheckpointError("\n  ".join([f"{path} cannot be a start:", *wrong]))
    return given


def _contradictions(given: Given) -> list[str]:
    """Where weights, configuration and vocabulary of a folder do not fit one another."""
    with torch.device("meta"):
        network = NezhaForPreTraining(given.config)
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in given.weights.items()}
    wrong = [
        f"{name} is missing"
        for name in expected
        if name.startswith("nezha.") and not name.startswith("nezha.pooler.") and name not in found
    ]
    wrong += [
        f"{name} is {list(found[name])}, by the configuration {list(shape)}"
        for name, shape in expected.items()
        if found.get(name, shape) != shape
    ]
    wrong += [
        f"{name} differs from {of}, and networks here have one weight for both"
        for name, of in TIED.items()
        if name in found and not torch.equal(given.weights[name], given.weights[of])
    ]
    rows, entries = given.config.vocab_size, len(given.vocabulary)
    if entries > rows:
        wrong.append(f"vocab.txt has {entries} entries, and the network {rows}")
    return wrong


def require_fitting_shape(path: Path, given: NezhaConfig, wanted: NezhaConfig) -> None:
    """Refuse weights that no change makes fit.

    Raises:
        CheckpointError: the message names each field that is wrong, with both values.
    """
    same = (*SAME, "max_position_embeddings") if wanted.absolute_positions else SAME
    pairs = [(name, getattr(given, name), getattr(wanted, name)) for name in (*same, *WIDTHS)]
    lines = [
        f"model.{name}: {there} there, {here} here"
        for name, there, here in pairs
        if here != there and (name in same or here % there)
    ]
    heads = given.attention_head_size, wanted.attention_head_size
    if heads[0] != heads[1]:
        lines.append(f"hidden_size / num_attention_heads: {heads[0]} there, {heads[1]} here")
    if lines:
        raise CheckpointError(
            f"{path} holds weights that cannot be made to fit; widths must be multiples, and the "
            "other fields the same:\n  " + "\n  ".join(lines)
        )


def load(network: NezhaForPreTraining, path: Path, vocab: str | Path) -> str:
    """Load the weights of a folder into a network of another shape or vocabulary.

    Returns:
        what was changed, and what was left out, as a sentence.

    Raises:
        CheckpointError, VocabularyError: as `read` and `require_fitting_shape`.
    """
    given, wanted = read(path), cast(NezhaConfig, network.config)
    require_fitting_shape(path, given.config, wanted)
    tokens, known = read_vocabulary(vocab), given.vocabulary
    parts = [[known[token]] if token in known else _pieces(token, known) for token in tokens]
    generator = torch.Generator().manual_seed(0)  # all ranks draw the same shares
    own, used, fresh = network.state_dict(), set(), []
    for name, value in own.items():
        if name in TIED:
            continue
        source = re.sub(LAYER, lambda n: str(int(n[0]) % given.config.num_hidden_layers), name)
        if source not in given.weights:
            fresh.append(name)
            continue
        used.add(source)
        weight = given.weights[source].float()
        if name in BY_TOKEN:
            weight = _rows(weight, parts)
        value.copy_(_widened(weight, value.shape, name, generator))
    unused = [name for name in given.weights if name not in used and name not in TIED]
    kept, unknown = sum(token in known for token in tokens), sum(not part for part in parts)
    told = (
        f"started from {path}: {given.config.num_hidden_layers} layers of "
        f"{given.config.hidden_size} became {wanted.num_hidden_layers} of {wanted.hidden_size}; of "
        f"the vocabulary {kept} tokens kept, {len(parts) - kept - unknown} made from word pieces, "
        f"{unknown} from the mean"
    )
    clips = given.config.max_relative_position, wanted.max_relative_position
    if clips[0] != clips[1] and ABSOLUTE not in given.weights:
        told += f"; positions were clipped at distance {clips[0]}, and are at {clips[1]}"
    told += f"; new weights: {', '.join(fresh)}" if fresh else ""
    return told + (f"; left out: {', '.join(unused)}" if unused else "")


def _rows(weight: Tensor, parts: list[list[int]]) -> Tensor:
    """A row for each token [V', …]: the mean of its parts' rows in [V, …], or of all rows."""
    mean = weight.mean(0)
    return torch.stack([weight[part].mean(0) if part else mean for part in parts])


def _pieces(token: str, vocabulary: Mapping[str, int]) -> list[int]:
    """Ids of the longest word pieces that a token is made of; empty if there are none."""
    text, found = token.removeprefix("##"), list[int]()
    while text:
        # A character may be in the vocabulary only as the start of a word, or only inside one.
        marks = ("##", "") if found or token.startswith("##") else ("", "##")
        choices = [mark + text[:end] for end in range(len(text), 0, -1) for mark in marks]
        piece = next((choice for choice in choices if choice in vocabulary), "")
        if not piece:
            return []
        found.append(vocabulary[piece])
        text = text[len(piece.removeprefix("##")) :]
    return found


def _widened(weight: Tensor, shape: torch.Size, name: str, generator: torch.Generator) -> Tensor:
    """A weight [out] or [out, in] with its neurons copied to the shape that is wanted."""
    outputs = shape[0] // weight.shape[0]
    if weight.dim() == 1:
        return weight.repeat(outputs)
    copies = shape[1] // weight.shape[1]
    if name.endswith("_embeddings.weight"):
        return weight.repeat(1, copies) / copies
    if outputs == copies == 1:
        return weight
    shares = torch.rand(shape[0], copies, weight.shape[1], generator=generator) + 0.5
    shares /= shares.sum(1, keepdim=True)
    return (weight.repeat(outputs, 1)[:, None] * shares).flatten(1)
