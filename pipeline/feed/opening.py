"""The feeds that a run's settings describe."""

from collections.abc import Iterator
from functools import partial

from pipeline.corpus.shards.format import is_corpus, read_manifest
from pipeline.feed.base import BaseFeed
from pipeline.feed.batches import Feed, heldout
from pipeline.feed.cache import ShardCache
from pipeline.feed.checking import check_shards, known_damaged
from pipeline.feed.collate import Batch
from pipeline.feed.order import BatchSize
from pipeline.feed.phases import PhasedFeed, first_batch_size, micro_batches
from pipeline.feed.weights import split_weights
from pipeline.paths import RunPaths
from pipeline.progress import Say
from pipeline.settings.config import Config


def open_feed(config: Config, rank: int, world_size: int, tell: Say | None = None) -> BaseFeed:
    """A rank's feed of the shards that the run trains on, through all phases.

    Args:
        tell: takes a sentence on each damaged shard, if `faults.damaged_shard` skips them.

    Raises:
        ShardError: they cannot be read or do not fit the settings.
    """
    paths, train = RunPaths.of(config), config.train
    skip = config.faults.damaged_shard == "skip"
    open_one = partial(
        Feed,
        micro_batch=train.micro_batch,
        rank=rank,
        world_size=world_size,
        seed=config.run.seed,
        masking=config.corpus.masking,
        window=train.window_shards,
        cache=_cache(config),
        damaged=known_damaged(paths.run) if skip else frozenset(),
        tell=tell if skip else None,
        batches=micro_batches(train, world_size),
    )
    first = open_one(paths.training, size=first_batch_size(train))
    later = [
        open_one(shards, size=BatchSize(phase.global_batch))
        for phase, shards in zip(train.phases, paths.later, strict=True)
    ]
    return PhasedFeed([first, *later], [phase.after for phase in train.phases]) if later else first


def training_folders(config: Config) -> list[str]:
    """Folders and URLs of the shards that a run trains on, of all phases."""
    paths = RunPaths.of(config)
    return [
        folder for shards in (paths.training, *paths.later) for folder in split_weights(shards)[0]
    ]


def check(config: Config, say: Say) -> None:
    """Check the local shards of the run once, unless `train.check_shards` is off.

    Damaged held-out shards are always an error.

    Raises:
        ShardError: shards are missing or damaged.
    """
    if not config.train.check_shards:
        return
    paths, skip = RunPaths.of(config), config.faults.damaged_shard == "skip"
    check_shards(training_folders(config), paths.run, skip, say)
    if is_corpus(paths.heldout):
        check_shards([paths.heldout], paths.run, skip=False, say=say)


def open_heldout(config: Config, rank: int, world_size: int) -> Iterator[Batch]:
    """A rank's share of the held-out samples that an evaluation reads."""
    folder, train = RunPaths.of(config).heldout, config.train
    return heldout(folder, train.micro_batch, train.eval_samples, rank, world_size, _cache(config))


def _cache(config: Config) -> ShardCache:
    return ShardCache(config.train.shard_cache, config.train.shard_cache_gigabytes)


def heldout_set(config: Config) -> str | None:
    """An identifier of a run's held-out samples, or None; losses with the same one compare.

    Raises:
        ShardError: they cannot be read.
    """
    folder = RunPaths.of(config).heldout
    if not is_corpus(folder):
        return None
    return f"{read_manifest(folder).content_sha256} {config.train.eval_samples}"
