"""The checkpoint that a run goes on from, and which settings may differ from those it has."""

from collections.abc import Callable
from pathlib import Path

from model import NezhaConfig
from pipeline.errors import ConfigError
from pipeline.paths import RunPaths
from pipeline.runs.named_model import is_there
from pipeline.settings.config import Config, flatten
from pipeline.training.checkpoints import files
from pipeline.training.faults import events
from pipeline.training.start.network import network_config

HARMLESS = {
    *("train.checkpoint_every", "train.checkpoint_retry_seconds", "train.checkpoint_errors"),
    *("train.keep_last", "train.keep_every", "train.log_every"),
    *("train.eval_every", "train.eval_samples", "train.eval_shards"),
    *("train.profile_every", "train.shard_cache", "train.shard_cache_gigabytes"),
    *("train.check_shards", "train.shards"),
}
"""Settings of training that no weight depends on. What is in the shards is in the fingerprint."""
SHAPING = ("model.", "train.", "optim.")
"""What the weights depend on. That of `corpus` is in the fingerprint, which is compared apart."""
START = {"train.init_from", "train.init_state", "train.init_adapt"}
"""What a run begins with: without effect once it has a checkpoint."""
SHOWN = (*SHAPING, "engine.", "scaling.", "corpus.sequence_length", "corpus.lowercase")


def recover(config: Config, say: Callable[[str], None]) -> Path | None:
    """The checkpoint that a run goes on from, or None; a command calls it before the workers start.

    Args:
        say: takes a line for each damaged checkpoint; the run's record has it too.

    Raises:
        CheckpointError, OSError: as `files.recover`.
    """
    paths = RunPaths.of(config)

    def tell(line: str) -> None:
        say(line)
        events.record(paths.run, "damaged", line)

    return files.recover(paths.checkpoints, tell)


def is_finished(config: Config, checkpoint: Path) -> bool:
    """Whether a run that goes on from this checkpoint has no step left."""
    return files.step_of(checkpoint) >= config.train.steps


def changed_settings(config: Config, checkpoint: Path) -> list[str]:
    """Settings that differ from the checkpoint's, as lines to show.

    Raises:
        ConfigError: the network differs, another start is asked for, or the run is finished and
            anything differs that its weights depend on.
    """
    changed = differing(config, checkpoint)
    fixed = [line for key, line in changed.items() if key.startswith("model.") or key in START]
    shaping = [line for key, line in changed.items() if key.startswith(SHAPING)]
    if fixed or (shaping and is_finished(config, checkpoint)):
        raise ConfigError(
            f"{checkpoint} was trained with other settings:\n  "
            + "\n  ".join(fixed or shaping)
            + "\nchoose another run.name, or set them back"
            + ("" if fixed else "; a larger train.steps goes on from there")
        )
    return list(changed.values())


def differing(config: Config, checkpoint: Path) -> dict[str, str]:
    """Settings that differ from the checkpoint's, as lines to show, by their names."""
    saved = files.read_config(checkpoint)
    before = dict(flatten(saved))
    unused = HARMLESS if _starts_elsewhere(config, saved) else HARMLESS | START
    # A field may be given that the named size has anyway.
    same = _network(config).to_dict() == _network(saved).to_dict()
    return {
        key: f"{key}: {before.get(key)} → {value}"
        for key, value in flatten(config)
        if key.startswith(SHOWN)
        and before.get(key) != value
        and key not in unused
        and not (same and key.startswith("model."))
    }


def _starts_elsewhere(config: Config, saved: Config) -> bool:
    """Whether a start is given that is not the run's own, which may have been moved since."""
    own, given = saved.train.init_from, config.train.init_from
    return bool(given) and (not own or is_there(own))


def _network(config: Config) -> NezhaConfig:
    """The network that settings describe, but for the vocabulary, which is compared apart."""
    return network_config(config.model, vocab_size=1)
