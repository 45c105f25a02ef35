"""The feed of a training worker: the micro-batches of any global step."""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.arrays import offsets_of
from pipeline.corpus.records import Masks
from pipeline.corpus.samples.masks import at_progress, whole_word_masks
from pipeline.corpus.samples.pairs import NO_LABEL
from pipeline.corpus.shards.format import SCHEMA_VERSION
from pipeline.corpus.shards.reader import DamagedShard, Rows, ShardFolder, flat_pairs
from pipeline.cpu import keep_freed_memory
from pipeline.errors import ShardError
from pipeline.feed.base import BaseFeed
from pipeline.feed.cache import ShardCache
from pipeline.feed.collate import WIDTH_MULTIPLE, Batch, collate, number_words, unscored
from pipeline.feed.order import BatchSize, mixed_at, positions_of
from pipeline.feed.weights import quotas, split_weights
from pipeline.files.urls import is_url
from pipeline.progress import Say
from pipeline.settings.corpus import MaskingSettings


class Feed(BaseFeed):
    """The feed of corpus folders.

    Args:
        shards: corpus folders or URLs: either all `PATH`, or all `PATH@WEIGHT`, where the weight is
            the share of the samples.
        size: samples of each step over all ranks.
        micro_batch: samples of one batch at most; all ranks make equally many batches of a step.
        seed: seed of the order and of dynamic masks.
        masking: draws new masks in every epoch if its mode is `dynamic`; otherwise, and if it is
            None, the masks in the shards are used.
        window: how many shards are shuffled together; 0 shuffles all.
        batches: micro-batches of a rank in a step; 0: as many as `micro_batch` needs.
        cache: keeps shards of object stores on the local disk.
        damaged: local paths of shards whose samples are left out: they keep their places in the
            order, and nothing in them is scored.
        tell: takes a sentence on each shard that is found damaged, which is then left out too;
            None: such a shard is an error.

    Raises:
        ShardError: a folder is not a finished corpus, has no samples or no masks, or weights are
            wrong; shards of an object store are shuffled all together and do not fit the cache.
    """

    def __init__(
        self,
        shards: Sequence[str],
        *,
        size: BatchSize,
        micro_batch: int,
        rank: int,
        world_size: int,
        seed: int,
        masking: MaskingSettings | None = None,
        window: int = 0,
        batches: int = 0,
        cache: ShardCache | None = None,
        damaged: frozenset[str] = frozenset(),
        tell: Say | None = None,
    ) -> None:
        folders, weights = split_weights(shards)
        keep_freed_memory()
        self._cache = cache or ShardCache()
        self._reader = open_folder(*folders, cache=self._cache)
        self._damaged, self._tell = self._reader.shards_at(damaged), tell
        if not window:
            _need_room(self._reader, self._cache)
        self._masking = masking if masking and masking.mode == "dynamic" else None
        manifest = self._reader.manifest
        self._vocabulary = manifest.maskable
        if not self._masking:
            _need_static_masks(self._reader)
        self._size = size
        largest_part = -(-size.full // world_size)
        self.batches = batches or -(-largest_part // micro_batch)
        self._rank, self._world_size = rank, world_size
        self._seed, self._window = seed, window
        self._pad_id = manifest.special_ids["[PAD]"]
        # Folders without weights form one source; with weights, each folder is a source.
        rows = self._reader.shard_rows
        per_folder = [len(manifest.shards) for manifest in self._reader.manifests]
        bounds = offsets_of(np.array(per_folder)) if weights else np.array([0, len(rows)])
        source_rows = [rows[a:b] for a, b in pairwise(bounds)]
        if not all(rows.sum() for rows in source_rows):
            raise ShardError(f"{', '.join(folders)}: no samples; prepare them from more text")
        self.source_bounds = offsets_of(np.array([rows.sum() for rows in source_rows]))
        shares = quotas(weights) if weights else (1,)
        self._samples_at = partial(
            mixed_at, rows=source_rows, shares=shares, seed=seed, window=window
        )
        self._steps_ahead = self._steps_of_a_window(len(shares))
        self.vocab_sha256, self.vocab_size = manifest.vocab_sha256, manifest.vocab_size
        self.fingerprint_fields = self._fingerprint_fields(shares)

    def _fingerprint_fields(self, shares: Sequence[int]) -> dict[str, Any]:
        """What decides which samples a step gets, and with which masks."""
        size = self._size
        growth = {"batch_growth": [size.first, size.growing]} if size.growing else {}
        return {
            "schema_version": SCHEMA_VERSION,
            "corpora": [manifest.content_sha256 for manifest in self._reader.manifests],
            "weights": list(shares),
            "vocabulary": self.vocab_sha256,
            "seed": self._seed,
            "global_batch": size.full,
            "window": self._window,
            "masking": self._masking.model_dump() if self._masking else "static",
            **growth,
        }

    def step(self, step: int, done: float = 0.0) -> list[Batch]:
        positions = positions_of(step, self._size, self._rank, self._world_size)
        samples, epochs = self._samples_at(positions)
        rows, unusable = self._read(samples)
        if self._steps_ahead:
            later = step + self._steps_ahead
            positions = positions_of(later, self._size, self._rank, self._world_size)
            self._cache.prefetch(self._reader.shards_of(self._samples_at(positions)[0]))
        masks = rows.masks
        if self._masking:
            masking = at_progress(self._masking, done)
            masks = whole_word_masks(
                flat_pairs(rows), masking, self._vocabulary, self._seed, epochs, samples
            )
        if unusable.any():
            rows, masks = _unscored_rows(rows, masks, unusable)
        return [
            collate(rows, masks, samples, self._pad_id, first, last)._replace(
                damaged=int(unusable[first:last].sum())
            )
            for first, last in pairwise(
                len(samples) * part // self.batches for part in range(self.batches + 1)
            )
        ]

    def samples_before(self, step: int) -> int:
        return self._size.before(step)

    def _read(self, samples: NDArray[np.int64]) -> tuple[Rows, NDArray[np.bool_]]:
        """The rows of samples [N], and which of them stand for samples of a damaged shard."""
        while True:
            unusable = self._reader.in_shards(samples, self._damaged)
            readable = samples
            if unusable.any():
                readable = np.where(unusable, self._reader.sample_outside(self._damaged), samples)
            try:
                rows = self._reader.rows(
                    readable,
                    words=self._masking is not None,
                    masks=self._masking is None,
                    multiple=WIDTH_MULTIPLE,
                )
            except DamagedShard as error:
                if self._tell is None:
                    raise
                self._tell(f"{error}; its samples are left out (faults.damaged_shard=skip)")
                self._damaged |= set(error.shards)
            else:
                return rows, unusable

    def samples(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        positions = positions_of(step, self._size, rank=0, world_size=1)
        return self._samples_at(positions)

    def _steps_of_a_window(self, sources: int) -> int:
        """Steps to fetch shards of object stores ahead; 0 if the cache can't hold two windows."""
        shards = [shard for manifest in self._reader.manifests for shard in manifest.shards]
        held = 2 * self._window * sources * max(shard.bytes for shard in shards)
        remote = any(is_url(folder) for folder in self._reader.folders)
        if not self._window or not remote or held > self._cache.limit_bytes:
            return 0
        return math.ceil(self._window * max(shard.rows for shard in shards) / self._size.full)


def _unscored_rows(rows: Rows, masks: Masks, which: NDArray[np.bool_]) -> tuple[Rows, Masks]:
    """Rows and masks in which nothing of these rows [N] is scored."""
    counts = np.diff(masks.offsets)
    kept = ~np.repeat(which, counts)
    labels = np.where(which, np.uint8(NO_LABEL), rows.next_sentence_label)
    offsets = offsets_of(np.where(which, 0, counts))
    return (
        rows._replace(next_sentence_label=labels),
        Masks(masks.positions[kept], masks.ids[kept], offsets),
    )


def heldout(
    folder: str,
    micro_batch: int,
    samples: int,
    rank: int,
    world_size: int,
    cache: ShardCache | None = None,
) -> Iterator[Batch]:
    """The first `samples` samples of a folder in order, with the shards' own masks and words.

    Each rank reads a contiguous part; ranks may yield unequal numbers of batches. A rank whose part
    is empty yields one sample in which nothing is scored, so that it can join collective calls.
    """
    reader = open_folder(folder, cache=cache)
    _need_static_masks(reader)
    total = min(samples, len(reader))
    own = positions_of(0, BatchSize(total), rank, world_size)
    positions = own if len(own) else np.arange(min(1, total))
    for first in range(0, len(positions), micro_batch):
        numbers = positions[first : first + micro_batch]
        rows = reader.rows(numbers, multiple=WIDTH_MULTIPLE)
        pad_id = reader.manifest.special_ids["[PAD]"]
        batch = collate(rows, rows.masks, numbers, pad_id, 0, len(numbers))
        batch = number_words(batch, rows.word_starts)
        yield batch if len(own) else unscored(batch)


def open_folder(*folders: str, cache: ShardCache | None = None) -> ShardFolder:
    """Open corpus folders for reading; shards of folders with a URL are read from the cache."""
    if not any(is_url(folder) for folder in folders):
        return ShardFolder(*folders)
    cache = cache or ShardCache()
    return ShardFolder(*folders, locate=cache.locate, mapped_bytes=cache.limit_bytes)


def _need_room(reader: ShardFolder, cache: ShardCache) -> None:
    """Check that the cache holds all shards of object stores, which every step needs."""
    size = sum(
        shard.bytes
        for folder, manifest in zip(reader.folders, reader.manifests, strict=True)
        for shard in manifest.shards
        if is_url(folder)
    )
    if size > cache.limit_bytes:
        raise ShardError(
            f"{', '.join(reader.folders)}: the shards have {size / 1e9:,.1f} GB, and "
            f"train.shard_cache_gigabytes is {cache.limit_bytes / 1e9:,.1f}. With "
            "train.window_shards=0 every step reads from all shards, so most would be fetched "
            "again and again; set train.window_shards=64, or raise train.shard_cache_gigabytes"
        )


def _need_static_masks(reader: ShardFolder) -> None:
    for folder, manifest in zip(reader.folders, reader.manifests, strict=True):
        if manifest.masks != "static":
            raise ShardError(
                f"{folder}: its shards hold no masks; set corpus.masking.mode=dynamic to draw "
                "masks while training, or prepare it again with corpus.masking.mode=static"
            )
