"""The network and the vocabulary that weights of a checkpoint or an export were trained with."""

from pathlib import Path
from typing import NamedTuple

from model import NezhaConfig
from pipeline.corpus.samples.vocabulary import vocabulary_sha256
from pipeline.errors import CheckpointError, VocabularyError
from pipeline.settings.training import ModelSettings
from pipeline.training.checkpoints import files
from pipeline.training.start.network import network_config

FREE = {
    *("size", "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"),
    *("initializer_range", "max_position_embeddings"),
}
"""Settings of the network that may differ from those that the weights were trained with."""
FIELDS = ModelSettings.model_fields.keys() - FREE
"""Fields of the network that decide what its weights mean. Shapes show only some of them."""


class TrainedWith(NamedTuple):
    """What weights were trained with."""

    network: NezhaConfig
    vocab_sha256: str


def read(path: Path, vocab_size: int) -> TrainedWith:
    """Read a `checkpoint_…` folder or an export.

    Args:
        vocab_size: entries of the vocabulary; a checkpoint knows only its hash.

    Raises:
        CheckpointError: the folder is neither.
    """
    if (path / files.STATE).exists():
        shape = network_config(files.read_config(path).model, vocab_size)
        return TrainedWith(shape, files.read_state(path)["vocab_sha256"])
    try:
        if not (path / "config.json").is_file():  # transformers would take its defaults
            raise OSError("no config.json")
        network = NezhaConfig.from_pretrained(path)
        return TrainedWith(network, vocabulary_sha256(path / "vocab.txt"))
    except (OSError, ValueError, VocabularyError) as error:
        raise CheckpointError(
            f"{path} is neither a checkpoint_… folder nor an export with config.json and "
            f"vocab.txt: {error}"
        ) from None


def require_same(path: Path, trained: TrainedWith, network: NezhaConfig, vocab_sha256: str) -> None:
    """Refuse weights that would mean something else in another network or vocabulary.

    Raises:
        VocabularyError: the ids of the vocabulary are others.
        CheckpointError: fields of the network differ; the message names them.
    """
    if trained.vocab_sha256 != vocab_sha256:
        raise VocabularyError(
            f"{path} was trained with another vocabulary; set corpus.vocab to its own, and prepare "
            "shards with it"
        )
    lines = [
        f"model.{name}: {there} there, {here} here"
        for name in sorted(FIELDS)
        for there, here in [(getattr(trained.network, name), getattr(network, name))]
        if there != here
    ]
    if lines:
        raise CheckpointError(f"{path} holds weights of another network:\n  " + "\n  ".join(lines))
