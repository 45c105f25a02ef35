"""Phases of a run: one feed after another, whatever the number of workers."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ShardError
from pipeline.feed.batches import Feed
from pipeline.feed.opening import open_feed
from pipeline.feed.order import BatchSize
from pipeline.feed.phases import PhasedFeed, phases_of
from pipeline.settings.config import Config
from pipeline.settings.corpus import MaskingSettings
from tests.pipeline.corpus.made import make_corpus

FALLING = MaskingSettings(mode="dynamic", probability=0.4, final_probability=0.1)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    folders = [tmp_path_factory.mktemp("phases") / name for name in ("short", "long")]
    for seed, folder in enumerate(folders):
        make_corpus(folder, seed=seed)
    return list(map(str, folders))


def feeds_of(corpora, rank=0, world_size=1, **changes):
    common = dict(micro_batch=8, seed=3, rank=rank, world_size=world_size, **changes)
    first = Feed(corpora[:1], size=BatchSize(24), **common)
    later = Feed(corpora[1:], size=BatchSize(9), batches=first.batches, **common)
    return PhasedFeed([first, later], [5]), first, later


def test_a_phase_begins_its_own_shards_at_its_own_size(corpora):
    feed, first, later = feeds_of(corpora)
    rows = first.source_bounds[-1]
    assert feed.samples_before(5) == 5 * 24
    assert feed.samples_before(7) == 5 * 24 + 2 * 9
    for step, one in enumerate(feed.iterate(0, 8)):
        own = first.step(step) if step < 5 else later.step(step - 5)
        assert len(one) == first.batches == 3
        for batch, same in zip(one, own, strict=True):
            np.testing.assert_array_equal(batch.input_ids, same.input_ids)
            offset = 0 if step < 5 else rows
            np.testing.assert_array_equal(batch.samples, same.samples + np.uint64(offset))
    samples, epochs = feed.samples(6)
    assert sorted(samples) == sorted(int(n) for batch in feed.step(6) for n in batch.samples)
    assert set(epochs) == {0}
    assert feed.source_bounds.tolist() == [0, rows, rows + later.source_bounds[-1]]


@pytest.mark.parametrize("world", [2, 3])
def test_phases_do_not_depend_on_the_world(corpora, world):
    alone, *_ = feeds_of(corpora, masking=FALLING)
    ranks = [feeds_of(corpora, rank, world, masking=FALLING)[0] for rank in range(world)]
    for step in (4, 5, 9):
        split = [feed.step(step) for feed in ranks]
        assert len({len(batches) for batches in split}) == 1
        numbers = [int(n) for batches in split for batch in batches for n in batch.samples]
        assert numbers == [int(n) for batch in alone.step(step) for n in batch.samples]


def test_a_larger_batch_of_a_later_phase_makes_no_micro_batch_larger(corpora):
    later = {"after": 3, "sequence_length": 48, "global_batch": 50, "shards": corpora[1:]}
    train = {"steps": 6, "global_batch": 20, "micro_batch": 4, "shards": corpora[:1]}
    config = Config.model_validate({"train": {**train, "phases": [later]}})
    ranks = [open_feed(config, rank, world_size=2) for rank in range(2)]
    for step, samples in ((2, 20), (3, 50)):
        sizes = [[len(batch.samples) for batch in feed.step(step)] for feed in ranks]
        assert [len(of_rank) for of_rank in sizes] == [7, 7]
        assert all(1 <= size <= 4 for of_rank in sizes for size in of_rank)
        assert sum(map(sum, sizes)) == samples


@pytest.mark.parametrize("skipped", [0, 3, 100])
def test_masks_become_fewer_through_all_phases(corpora, skipped):
    """Also where a run goes on in the data of another, or behind what it gave up."""
    feed, *_ = feeds_of(corpora, masking=FALLING)
    shares = [
        sum(len(b.masked_labels) for b in step) / sum(b.tokens for b in step)
        for step in feed.iterate(0, 20, skipped)
    ]
    first, early, late, last = (shares[n] for n in (0, 4, 12, 19))
    assert first > 0.35 > early > 0.3 > 0.25 > late > 0.15 > last


def test_the_fingerprint_names_what_a_phase_changes(corpora):
    feed, first, later = feeds_of(corpora)
    (phase,) = feed.fingerprint_fields["phases"]
    assert phase == {"after": 5, "global_batch": 9, "corpora": later.fingerprint_fields["corpora"]}
    assert feed.fingerprint != first.fingerprint
    assert feed.fingerprint != PhasedFeed([first, later], [6]).fingerprint


def test_phases_share_a_vocabulary(corpora):
    _, first, later = feeds_of(corpora)
    later.vocab_sha256 = "another"
    with pytest.raises(ShardError, match=r"train\.phases have another vocabulary"):
        PhasedFeed([first, later], [5])


def test_what_each_phase_of_a_run_reads():
    later = {"after": 5, "sequence_length": 256, "global_batch": 9, "shards": ["b@2"]}
    train = {"steps": 8, "global_batch": 24, "first_batch": 4, "batch_warmup": 4, "shards": ["a"]}
    config = Config.model_validate({"train": train | {"phases": [later]}})
    first, second = phases_of(config)
    # 4, 9, 14 and 19 samples while the batch grows.
    assert first[:3] == (5, 4 + 9 + 14 + 19 + 24, 128)
    assert second[:3] == (3, 27, 256)
    assert [Path(each.shards[0]).name for each in (first, second)] == ["a", "b@2"]
    assert [phase[:2] for phase in phases_of(config, 2)] == [(2, 13), (0, 0)]
    assert phases_of(config, 6)[1][:2] == (1, 9)
    branch = train | {"phases": [], "init_from": "c", "init_state": "branch"}
    config = Config.model_validate({"train": branch, "optim": {"warmup": 0}})
    assert [phase[:2] for phase in phases_of(config)] == [(8, 8 * 24)]
