"""The network that the settings describe, with weights that the run's seed determines."""

from pathlib import Path

import torch

from model import NezhaConfig, NezhaForPreTraining
from pipeline.corpus.samples.vocabulary import read_vocabulary
from pipeline.corpus.shards import format as shards
from pipeline.errors import ConfigError
from pipeline.feed.weights import split_weights
from pipeline.files.urls import is_url
from pipeline.paths import RunPaths
from pipeline.settings.config import Config
from pipeline.settings.training import ModelSettings

SIZES: dict[str, dict[str, int]] = {
    "tiny": {"num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 4},
    "small": {"num_hidden_layers": 6, "hidden_size": 512, "num_attention_heads": 8},
    "base": {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12},
    "large": {"num_hidden_layers": 24, "hidden_size": 1024, "num_attention_heads": 16},
}


def vocabulary_size(config: Config) -> int:
    """Entries of the vocabulary that the run has or will have.

    They are those of the vocabulary's file, else of the prepared shards on a local disk, else
    `corpus.vocab_size`: a run can be planned where its files are not.

    Raises:
        VocabularyError: the file cannot be read.
        ShardError: the manifest cannot be read.
    """
    paths = RunPaths.of(config)
    if is_url(paths.vocab) or Path(paths.vocab).exists():
        return len(read_vocabulary(paths.vocab))
    for folder in split_weights(paths.training)[0]:
        if Path(folder, shards.MANIFEST).exists():
            return shards.read_manifest(folder).vocab_size
    return config.corpus.vocab_size


def network_config(settings: ModelSettings, vocab_size: int) -> NezhaConfig:
    """The named size, in which the fields that the user set replace its own.

    The intermediate size is 4 × the hidden size unless it is set.

    Raises:
        ConfigError: the sizes do not fit one another.
    """
    chosen = settings.model_dump(exclude={"size"}, exclude_none=True)
    fields = SIZES[settings.size] | chosen
    fields.setdefault("intermediate_size", 4 * fields["hidden_size"])
    try:
        return NezhaConfig(vocab_size=vocab_size, **fields)
    except ValueError as error:
        raise ConfigError(f"model: {error}") from None


def build_network(config: NezhaConfig, seed: int, attention: str) -> NezhaForPreTraining:
    """A network with new weights; the same seed gives the same weights on every rank."""
    torch.manual_seed(seed)
    if attention != "auto":
        config._attn_implementation = attention
    return NezhaForPreTraining(config)


def count_parameters(config: NezhaConfig) -> int:
    """Parameters of the pretraining network, without allocating them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in NezhaForPreTraining(config).parameters())
