"""The feeds that a run's settings describe."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pipeline.corpus.shards.format import MANIFEST
from pipeline.corpus.shards.reader import ShardFolder
from pipeline.feed.batches import Batch, Feed, heldout, open_folder, split_weights
from pipeline.feed.cache import ShardCache
from pipeline.feed.checking import check_shards, known_damaged
from pipeline.paths import RunPaths
from pipeline.settings.config import Config


def open_feed(
    config: Config, rank: int, world_size: int, tell: Callable[[str], None] | None = None
) -> Feed:
    """A rank's feed of the shards that the run trains on.

    Args:
        tell: takes a sentence on each damaged shard, if `faults.damaged_shard` skips them.

    Raises:
        ShardError: they cannot be read or do not fit the settings.
    """
    paths, skip = RunPaths.of(config), config.faults.damaged_shard == "skip"
    return Feed(
        paths.training,
        global_batch=config.train.global_batch,
        micro_batch=config.train.micro_batch,
        rank=rank,
        world_size=world_size,
        seed=config.run.seed,
        masking=config.corpus.masking,
        window=config.train.window_shards,
        first_batch=config.train.first_batch or 0,
        growing=config.train.batch_warmup,
        steps=config.train.steps,
        cache=_cache(config),
        damaged=known_damaged(paths.run) if skip else frozenset(),
        tell=tell if skip else None,
    )


def check(config: Config, say: Callable[[str], None]) -> None:
    """Check the local shards of the run once, unless `train.check_shards` is off.

    Damaged held-out shards are always an error.

    Raises:
        ShardError: shards are missing or damaged.
    """
    if not config.train.check_shards:
        return
    paths, skip = RunPaths.of(config), config.faults.damaged_shard == "skip"
    folders, _ = split_weights(paths.training)
    check_shards(folders, paths.run, skip, say)
    if (paths.heldout / MANIFEST).exists():
        check_shards([str(paths.heldout)], paths.run, skip=False, say=say)


def open_training_folder(config: Config) -> ShardFolder:
    """The shards that the run trains on, of all folders, for reading in any order."""
    folders, _ = split_weights(RunPaths.of(config).training)
    return open_folder(*folders, cache=_cache(config))


def open_heldout(config: Config, rank: int, world_size: int) -> Iterator[Batch]:
    """A rank's share of the held-out samples that an evaluation reads."""
    folder, train = str(RunPaths.of(config).heldout), config.train
    return heldout(folder, train.micro_batch, train.eval_samples, rank, world_size)


def _cache(config: Config) -> ShardCache:
    return ShardCache(config.train.shard_cache, config.train.shard_cache_gigabytes)
