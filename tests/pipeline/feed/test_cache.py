"""The shard cache: fetched once, checked, bounded."""

import os

import fsspec
import numpy as np
import pytest

from pipeline.corpus.shard_folder import ShardFolder
from pipeline.errors import ShardError
from pipeline.feed.batches import open_folder
from pipeline.feed.cache import ShardCache
from tests.pipeline.corpus.made import make_corpus


@pytest.fixture
def store(tmp_path):
    """A corpus in an object store (fsspec's, in memory): its URL, manifest and a local copy."""
    local = tmp_path / "local"
    manifest = make_corpus(local, shards=4)
    url = "memory://bucket/corpus"
    file_system = fsspec.filesystem("memory")
    file_system.put(str(local), "/bucket/corpus", recursive=True)
    yield url, manifest, local
    file_system.rm("/bucket", recursive=True)


def test_samples_come_through_the_cache(store, tmp_path):
    url, _, local = store
    reader, direct = open_folder(url, cache=ShardCache(str(tmp_path / "cache"))), ShardFolder(local)
    numbers = np.arange(len(direct))
    assert (reader.rows(numbers).documents == direct.rows(numbers).documents).all()


def test_a_shard_is_fetched_once(store, tmp_path):
    url, manifest, _ = store
    cache = ShardCache(str(tmp_path / "cache"))
    path = cache.locate(url, manifest.shards[0])
    fsspec.filesystem("memory").rm("/bucket/corpus/shard-00000.arrow")
    assert cache.locate(url, manifest.shards[0]) == path
    with pytest.raises(ShardError, match="gone"):
        ShardCache(str(tmp_path / "other")).locate(url, manifest.shards[0])


def test_the_least_recently_used_go_first(store, tmp_path):
    url, manifest, _ = store
    three = sum(shard.bytes for shard in manifest.shards[:3])
    cache = ShardCache(str(tmp_path / "cache"), limit_gigabytes=(three - 100) / 1e9)
    paths = []
    for age, shard in enumerate(manifest.shards[:2]):
        paths.append(cache.locate(url, shard))
        os.utime(paths[-1], (age, age))
    cache.locate(url, manifest.shards[0])
    paths.append(cache.locate(url, manifest.shards[2]))
    assert [path.exists() for path in paths] == [True, False, True]
    assert sum(file.stat().st_size for file in cache.folder.glob("*.arrow")) <= cache.limit_bytes


def test_a_limit_below_one_shard_is_an_error(store, tmp_path):
    url, manifest, _ = store
    with pytest.raises(ShardError, match="raise the limit"):
        ShardCache(str(tmp_path), limit_gigabytes=1e-9).locate(url, manifest.shards[0])


def test_wrong_bytes_are_refused_and_not_kept(store, tmp_path):
    url, manifest, _ = store
    path = "/bucket/corpus/shard-00000.arrow"
    file_system = fsspec.filesystem("memory")
    file_system.pipe_file(path, bytes(len(file_system.cat_file(path))))
    with pytest.raises(ShardError, match="not those that the manifest lists"):
        ShardCache(str(tmp_path)).locate(url, manifest.shards[0])
    assert not list(tmp_path.glob("*.arrow")) + list(tmp_path.glob("*.part"))
