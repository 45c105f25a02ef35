"""Which settings may differ from those of the checkpoint that a run goes on from."""

from __future__ import annotations

from pathlib import Path

from model import NezhaConfig
from pipeline.errors import ConfigError
from pipeline.settings.config import Config, flatten
from pipeline.training.checkpoints import files
from pipeline.training.network import network_config

HARMLESS = {
    *("train.checkpoint_every", "train.checkpoint_retry_seconds", "train.checkpoint_errors"),
    *("train.keep_last", "train.keep_every", "train.log_every"),
    *("train.eval_every", "train.eval_samples"),
    *("train.profile_every", "train.shard_cache", "train.shard_cache_gigabytes"),
    "train.check_shards",
}
"""Settings of training that no weight depends on."""
SHAPING = ("model.", "train.", "optim.")
"""What the weights depend on. That of `corpus` is in the fingerprint, which is compared apart."""
SHOWN = (*SHAPING, "engine.", "scaling.", "corpus.sequence_length", "corpus.lowercase")


def changed_settings(config: Config, checkpoint: Path, finished: bool) -> list[str]:
    """Settings that differ from the checkpoint's, as lines to show.

    Raises:
        ConfigError: the network differs, or the run is finished and anything differs that its
            weights depend on.
    """
    saved = files.read_config(checkpoint)
    before = dict(flatten(saved))
    # A field may be given that the named size has anyway.
    same = _network(config).to_dict() == _network(saved).to_dict()
    changed = {
        key: f"{key}: {before.get(key)} → {value}"
        for key, value in flatten(config)
        if key.startswith(SHOWN)
        and before.get(key) != value
        and key not in HARMLESS
        and not (same and key.startswith("model."))
    }
    network = [line for key, line in changed.items() if key.startswith("model.")]
    shaping = [line for key, line in changed.items() if key.startswith(SHAPING)]
    if network or (shaping and finished):
        raise ConfigError(
            f"{checkpoint} was trained with other settings:\n  "
            + "\n  ".join(network or shaping)
            + "\nchoose another run.name, or set them back"
            + ("" if network else "; a larger train.steps goes on from there")
        )
    return list(changed.values())


def _network(config: Config) -> NezhaConfig:
    """The network that settings describe, but for the vocabulary, which is compared apart."""
    return network_config(config.model, vocab_size=1)
