"""The shard cache fetches a shard once, checks it, and stays below its limit."""

import os
import time

import fsspec
import numpy as np
import pytest

from pipeline import paths
from pipeline.corpus.shards.reader import ShardFolder, UnreachableShard
from pipeline.errors import ShardError
from pipeline.feed import cache as caching
from pipeline.feed.batches import open_folder
from pipeline.feed.cache import ShardCache
from pipeline.feed.order import BatchSize
from pipeline.settings.run import RunSettings
from tests.pipeline.corpus.made import make_corpus
from tests.pipeline.feed.test_batches import feed_of


@pytest.fixture
def store(tmp_path):
    """A corpus in fsspec's object store in memory: its URL, manifest and a local copy."""
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


def test_users_of_a_machine_have_folders_of_their_own(monkeypatch):
    """A folder that one user has made takes no files of another."""
    folders = set()
    for user in (1001, 1002):
        monkeypatch.setattr(paths.os, "getuid", lambda user=user: user)
        folders.add(ShardCache().folder)
        folders.add(paths.storage_folder(RunSettings(storage="s3://bucket/runs")))
    assert len(folders) == 4


def test_a_shard_is_fetched_once(store, tmp_path):
    url, manifest, _ = store
    cache = ShardCache(str(tmp_path / "cache"))
    path = cache.locate(url, manifest.shards[0])
    fsspec.filesystem("memory").rm("/bucket/corpus/shard-00000.arrow")
    assert cache.locate(url, manifest.shards[0]) == path
    with pytest.raises(ShardError, match="missing"):
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
    with pytest.raises(ShardError, match=r"raise train\.shard_cache_gigabytes"):
        ShardCache(str(tmp_path), limit_gigabytes=1e-9).locate(url, manifest.shards[0])


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(caching, "_FIRST_WAIT_SECONDS", 0.001)


def test_an_error_of_the_store_is_tried_again(store, tmp_path, monkeypatch):
    url, manifest, _ = store
    opens, attempts = type(fsspec.filesystem("memory")).open, []

    def fails_twice(self, path, *arguments, **options):
        attempts.append(path)
        if len(attempts) < 3:
            raise RuntimeError("the store raises what it likes")
        return opens(self, path, *arguments, **options)

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "open", fails_twice)
    assert ShardCache(str(tmp_path / "cache")).locate(url, manifest.shards[0]).exists()
    assert len(attempts) == 3


@pytest.mark.parametrize("problem", ["outage", "limit", "missing"])
def test_only_what_the_store_lacks_is_left_out(store, tmp_path, monkeypatch, problem):
    url = store[0]
    told = []
    cache = ShardCache(str(tmp_path / "cache"), 1e-9 if problem == "limit" else 1.0)
    feed = feed_of(url, size=BatchSize(4), window=1, tell=told.append, cache=cache)
    if problem == "missing":
        used = feed._reader.shards_of(feed.samples(0)[0])
        for _, shard in used:
            fsspec.filesystem("memory").rm(f"/bucket/corpus/{shard.name}")
        assert (feed.step(0)[0].labels == -100).all()
        assert len(told) == len(used) == 1
        return

    def fails(self, path, *arguments, **options):
        raise OSError("no route to host")

    if problem == "outage":
        monkeypatch.setattr(type(fsspec.filesystem("memory")), "open", fails)
    with pytest.raises(UnreachableShard, match=r"no route to host|exceed the limit"):
        feed.step(0)
    assert told == []


def test_a_cached_shard_that_was_damaged_is_fetched_again(store, tmp_path):
    url, manifest, _ = store
    shard = manifest.shards[0]
    path = ShardCache(str(tmp_path / "cache")).locate(url, shard)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert ShardCache(str(tmp_path / "cache")).locate(url, shard).read_bytes() == whole


def test_a_corpus_larger_than_the_cache_needs_a_window(store, tmp_path):
    url, manifest, _ = store
    size = manifest.bytes
    cache = ShardCache(str(tmp_path), limit_gigabytes=0.9 * size / 1e9)
    with pytest.raises(ShardError, match=r"set train\.window_shards"):
        feed_of(url, cache=cache)
    assert feed_of(url, cache=cache, window=1).step(0)
    assert feed_of(url, cache=ShardCache(str(tmp_path), size / 1e9)).step(0)


def test_wrong_bytes_are_refused_and_not_kept(store, tmp_path):
    url, manifest, _ = store
    path = "/bucket/corpus/shard-00000.arrow"
    file_system = fsspec.filesystem("memory")
    file_system.pipe_file(path, bytes(len(file_system.cat_file(path))))
    with pytest.raises(ShardError, match="not those of the manifest"):
        ShardCache(str(tmp_path)).locate(url, manifest.shards[0])
    assert not list(tmp_path.glob("*.arrow")) + list(tmp_path.glob("*.part"))


@pytest.fixture
def slow(store, monkeypatch):
    """The store, where opening a file takes a tenth of a second, and the names that were opened."""
    opened = []
    opens = type(fsspec.filesystem("memory")).open

    def wait(self, path, *arguments, **options):
        opened.append(path.rpartition("/")[2])
        time.sleep(0.1)
        return opens(self, path, *arguments, **options)

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "open", wait)
    return store[0], store[1], opened


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_next_window_is_fetched_while_the_current_one_is_read(slow, tmp_path):
    url, manifest, opened = slow
    size = max(shard.rows for shard in manifest.shards)
    cache = ShardCache(str(tmp_path / "cache"))
    feed = feed_of(url, size=BatchSize(size), seed=0, window=1, cache=cache)
    feed.step(0)
    # The batch does not wait for the next shard.
    assert len(list((tmp_path / "cache").glob("*.arrow"))) < len(manifest.shards)
    wait_for(lambda: not feed._cache._asked)
    fsspec.filesystem("memory").rm("/bucket/corpus", recursive=True)
    feed.step(1)
    assert len(opened) == len(set(opened))
    with pytest.raises(ShardError, match="missing"):
        [feed.step(step) for step in (2, 3)]


def test_nothing_is_fetched_ahead_if_there_is_no_room(slow, tmp_path):
    url, manifest, _ = slow
    size, largest = (max(getattr(s, name) for s in manifest.shards) for name in ("rows", "bytes"))
    cache = ShardCache(str(tmp_path / "cache"), limit_gigabytes=1.9 * largest / 1e9)
    feed = feed_of(url, size=BatchSize(size), seed=0, window=1, cache=cache)
    feed.step(0)
    assert not feed._cache._asked
    assert feed.step(1)
