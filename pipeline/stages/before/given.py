"""Shards and weights that the settings name and no stage makes: what can be refused early."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.corpus import planning
from pipeline.corpus.samples.vocabulary import vocabulary_sha256
from pipeline.corpus.shards import format as shards
from pipeline.errors import CheckpointError, ConfigError, raise_all
from pipeline.export import trained_with
from pipeline.feed.weights import split_weights
from pipeline.paths import RunPaths
from pipeline.settings.config import Config
from pipeline.settings.corpus import CorpusSettings
from pipeline.training.checkpoints import files as checkpoints
from pipeline.training.schedule import learning_rate
from pipeline.training.start import starting_point
from pipeline.training.start.network import network_config, vocabulary_size
from pipeline.training.start.origin import origin_of

MEANT_FOR_THE_RUN = ("sequence_length",)
"""Settings of `corpus` that also mean something for shards which are there: tokens of a step."""
SAME_RATE = 0.01
"""Relative difference of two learning rates, because users round them."""


def check(config: Config) -> None:
    """Refuse what the settings name and no stage makes, before a corpus is prepared.

    It is not part of `preflight.check`: of runs that follow each other one may make it for the
    next.

    Raises:
        ShardError: `train.shards` or `train.eval_shards` are no finished corpora.
        ConfigError: the network cannot read their samples.
        CheckpointError: `train.init_from` is not there, is a run without a complete checkpoint, or
            holds weights of another network.
        VocabularyError: it has another vocabulary than `corpus.vocab`.
    """
    train, corpus, paths = config.train, config.corpus, RunPaths.of(config)
    named = [train.shards, *(phase.shards for phase in train.phases)]
    folders = [folder for each in named if each for folder in split_weights(each)[0]]
    if train.eval_shards and not corpus.heldout:
        folders.append(paths.heldout)
    own = paths.shards if corpus.inputs else ""
    check_samples(config, [shards.read_manifest(folder) for folder in folders if folder != own])
    if train.init_from and not checkpoints.newest(paths.checkpoints):
        known = vocabulary_sha256(paths.vocab) if corpus.vocab else None
        check_start(config, vocabulary_size(config), known)


def check_samples(config: Config, manifests: Iterable[shards.Manifest]) -> None:
    """Refuse a network that cannot read samples of these corpora."""
    for manifest in manifests:
        pairs = manifest.settings.get("pairs", {}).get("task", "nsp")
        check_readable(config, manifest.sequence_length, pairs)


def check_readable(config: Config, length: int, pairs: str) -> None:
    """Refuse a network that cannot read samples of so many tokens, or of two segments.

    Args:
        length: tokens of a sample at most.
        pairs: as `corpus.pairs.task`.
    """
    network = network_config(config.model, vocab_size=1)
    if network.absolute_positions and length > network.max_position_embeddings:
        raise ConfigError(
            f"model.max_position_embeddings={network.max_position_embeddings} is less than the "
            f"{length} tokens of a sample, and model.absolute_positions has a vector for each; "
            f"set it to {length} or more"
        )
    if network.type_vocab_size < 2 and pairs != "none":
        raise ConfigError(
            f"model.type_vocab_size={network.type_vocab_size}: samples of two segments need 2; "
            "leave it out, or set corpus.pairs.task=none"
        )


def check_start(config: Config, vocab_size: int, vocab_sha256: str | None) -> None:
    """Refuse a `train.init_from` that the run cannot start from.

    Args:
        config: of a run that begins.
        vocab_size: entries of the vocabulary.
        vocab_sha256: None: it will be trained, and is compared later.

    Raises:
        CheckpointError, VocabularyError: as `check`.
    """
    train, network = config.train, network_config(config.model, vocab_size)
    path = origin_of(config)
    if train.init_adapt:
        starting_point.require_fitting_shape(path, starting_point.read(path).config, network)
        return
    own = trained_with.read(path, vocab_size)
    trained_with.require_same(path, own, network, vocab_sha256 or own.vocab_sha256)
    if train.init_state != "weights":
        checkpoints.require_state(path)
    if train.init_state == "branch":
        _check_rate(path, config.optim.lr)


def _check_rate(path: Path, rate: float) -> None:
    """Refuse a branch that would go on at another learning rate than the run that it leaves."""
    before, step = checkpoints.read_config(path), checkpoints.step_of(path)
    reached = learning_rate(step, before.train.steps, before.optim)
    if not math.isclose(reached, rate, rel_tol=SAME_RATE):
        raise CheckpointError(
            f"{path}: a branch goes on at optim.lr={rate:g}, and the learning rate there is "
            f"{reached:.4g}; take a checkpoint before the decay, or set optim.lr to that rate"
        )


def check_settings(config: Config, manifests: Mapping[str, shards.Manifest]) -> None:
    """Refuse settings of `corpus` that are not the default and that no shard was made with.

    Args:
        manifests: of the folders that it trains on.
    """
    corpus, own = config.corpus, RunPaths.of(config).shards
    if corpus.inputs:  # held-out shards, at least, are made with the settings
        manifests = {folder: made for folder, made in manifests.items() if folder == own}
    kept_apart = {*MEANT_FOR_THE_RUN, *(["masking"] if corpus.masking.mode == "dynamic" else [])}
    default = content(CorpusSettings())
    made_with = {folder: flat(manifest.settings) for folder, manifest in manifests.items()}
    mistakes = []
    for key, value in content(corpus).items():
        made = {folder: found[key] for folder, found in made_with.items() if key in found}
        if value == default[key] or key.split(".")[0] in kept_apart or not made:
            continue
        if value not in made.values():
            folder, other = next(iter(made.items()))
            mistakes.append(
                f"corpus.{key}={value} has no effect: the shards in {folder} were made with "
                f"{other}; leave it out, or prepare shards with it"
            )
    raise_all(ConfigError, mistakes)


def content(corpus: CorpusSettings) -> dict[str, Any]:
    """Settings that change shards, as manifests hold them, by dotted name."""
    return flat(corpus.model_dump(mode="json", exclude=planning.EXCLUDED_FROM_FINGERPRINT))


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by dotted name, those of groups within groups too."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        inside = isinstance(value, Mapping)
        found |= flat(value, f"{prefix}{name}.") if inside else {f"{prefix}{name}": value}
    return found
