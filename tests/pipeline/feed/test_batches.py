"""The feed: the same global batches for any world size; labels restore the text."""

import threading

import numpy as np
import pytest

from pipeline.corpus.shards.reader import ShardFolder
from pipeline.errors import CheckpointError, ShardError
from pipeline.feed import base
from pipeline.feed.batches import Feed, heldout
from pipeline.feed.collate import WIDTH_MULTIPLE, collate
from pipeline.feed.fingerprints import require_same_data
from pipeline.feed.order import BatchSize
from pipeline.settings.corpus import MaskingSettings
from tests.pipeline.corpus.made import make_corpus

DYNAMIC = MaskingSettings(mode="dynamic")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("feed") / "a"
    make_corpus(folder)
    return str(folder)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    folder = tmp_path_factory.mktemp("feed") / "b"
    make_corpus(folder, seed=1, shards=1)
    return str(folder)


def feed_of(*shards, rank=0, world_size=1, **changes):
    values = dict(size=BatchSize(24), micro_batch=8, seed=3) | changes
    return Feed(shards, rank=rank, world_size=world_size, **values)


def samples_of(steps):
    """Sample numbers, and (ids, labels) without padding, of batches in order."""
    numbers, content = [], []
    for batch in steps:
        numbers += batch.samples.tolist()
        for row, mask in enumerate(batch.attention_mask.astype(bool)):
            content.append((batch.input_ids[row][mask].tolist(), batch.labels[row][mask].tolist()))
    return numbers, content


@pytest.mark.parametrize("masking", [None, DYNAMIC, MaskingSettings(max_predictions=3)])
@pytest.mark.parametrize("world", [2, 3, 4, 5])
@pytest.mark.parametrize("window", [0, 2])
def test_the_global_batches_do_not_depend_on_the_world(corpus, other, masking, world, window):
    shards = (f"{corpus}@0.7", f"{other}@0.3")
    alone = feed_of(*shards, masking=masking, window=window)
    for step in (0, 1, 7, 40):
        expected = samples_of(alone.step(step))
        ranks = [
            feed_of(*shards, masking=masking, window=window, rank=rank, world_size=world)
            for rank in range(world)
        ]
        assert samples_of([batch for feed in ranks for batch in feed.step(step)]) == expected


@pytest.mark.parametrize(("world", "sizes"), [(3, {4}), (5, {2, 3}), (7, {1, 2})])
def test_ranks_make_equally_many_batches(corpus, world, sizes):
    """Their parts of a step differ by at most one sample, and no batch is empty."""
    made = [
        feed_of(corpus, micro_batch=4 if world == 3 else 3, rank=rank, world_size=world).step(2)
        for rank in range(world)
    ]
    assert {len(batches) for batches in made} == {2}
    assert {len(batch.samples) for batches in made for batch in batches} == sizes


@pytest.mark.parametrize("masking", [None, DYNAMIC])
def test_labels_restore_the_text(corpus, masking):
    reader = ShardFolder(corpus)
    for batch in feed_of(corpus, masking=masking).step(5):
        rows = reader.rows(batch.samples)
        width = batch.input_ids.shape[1]
        assert width % 8 == 0
        assert width - rows.lengths.max() < 8
        restored = np.where(batch.labels >= 0, batch.labels, batch.input_ids)
        for row, length in enumerate(rows.lengths):
            assert (restored[row, :length] == rows.input_ids[row, :length]).all()
            assert batch.attention_mask[row].tolist() == [1] * length + [0] * (width - length)
            assert (batch.input_ids[row, length:] == 0).all()
            b = rows.segment_b_start[row]
            types = [0] * b + [1] * (length - b) + [0] * (width - length)
            assert batch.token_type_ids[row].tolist() == types
        assert batch.tokens == rows.lengths.sum()
        assert batch.squares == sum(length**2 for length in rows.lengths.tolist())
        assert (batch.next_sentence_label == rows.next_sentence_label).all()
        assert np.flatnonzero(batch.labels.ravel() >= 0).tolist() == batch.masked_positions.tolist()
        assert (batch.labels.ravel()[batch.masked_positions] == batch.masked_labels).all()
        assert {array.dtype for array in batch[:7]} == {np.dtype(np.int64)}


def test_static_masks_are_those_of_the_shards(corpus):
    batch = feed_of(corpus).step(0)[0]
    rows = ShardFolder(corpus).rows(batch.samples)
    assert (batch.masked_positions % batch.input_ids.shape[1] == rows.masks.positions).all()
    assert (batch.input_ids.ravel()[batch.masked_positions] == rows.masks.ids).all()


def test_dynamic_masks_change_with_the_epoch_and_nothing_else(corpus):
    feed = feed_of(corpus, masking=DYNAMIC)
    total, seen = len(ShardFolder(corpus)), {}
    for step in range(2 * total // 24):
        numbers, content = samples_of(feed.step(step))
        for number, sample in zip(numbers, content, strict=True):
            seen.setdefault(number, []).append(sample)
    twice = [samples for samples in seen.values() if len(samples) == 2]
    assert len(twice) > 0.8 * total
    # By chance, short samples may get the same masks.
    assert np.mean([one != two for one, two in twice]) > 0.9


def test_a_batch_may_contain_two_epochs(corpus):
    feed = feed_of(corpus)
    total = len(ShardFolder(corpus))
    numbers = [n for step in range(-(-2 * total // 24)) for n in samples_of(feed.step(step))[0]]
    assert sorted(numbers[:total]) == sorted(numbers[total : 2 * total]) == list(range(total))


def test_folders_without_weights_are_one_corpus(corpus, other):
    feed = feed_of(corpus, other)
    total = len(ShardFolder(corpus)) + len(ShardFolder(other))
    numbers = [n for step in range(-(-total // 24)) for n in samples_of(feed.step(step))[0]]
    assert sorted(numbers[:total]) == list(range(total))


def test_weights_are_shares_of_the_samples(corpus, other):
    feed = feed_of(f"{corpus}@1", f"{other}@3", size=BatchSize(40))
    first = len(ShardFolder(corpus))
    for step in range(4):
        numbers, _ = samples_of(feed.step(step))
        assert sum(number < first for number in numbers) == 10


def test_prefetched_steps_are_the_steps(corpus):
    feed = feed_of(corpus)
    ahead = list(feed.iterate(3, 12))
    assert [samples_of(step) for step in ahead] == [samples_of(feed.step(s)) for s in range(3, 12)]
    assert list(feed.iterate(5, 5)) == []


def feed_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("feed")]


def test_an_error_in_the_background_is_raised_to_the_caller(corpus, monkeypatch):
    feed = feed_of(corpus)

    def fail_at_two(step, done):
        if step == 2:
            raise ShardError("gone")
        return []

    monkeypatch.setattr(feed, "step", fail_at_two)
    steps = feed.iterate(0, 100)
    assert [next(steps), next(steps)] == [[], []]
    with pytest.raises(ShardError, match="gone"):
        next(steps)
    assert not feed_threads()


def test_closing_ends_the_background_thread(corpus):
    steps = feed_of(corpus).iterate(0, 10**9)
    next(steps)
    assert feed_threads()
    steps.close()
    assert not feed_threads()


def test_rows_that_end_at_their_longest_sample_make_the_same_batch(corpus):
    reader = ShardFolder(corpus)
    lengths = reader.rows(np.arange(len(reader))).lengths
    numbers = np.flatnonzero(lengths % WIDTH_MULTIPLE)[:1]
    batches_of = [
        collate(rows, rows.masks, numbers, 0, 0, 1)
        for rows in (reader.rows(numbers), reader.rows(numbers, multiple=WIDTH_MULTIPLE))
    ]
    for one, other in zip(*batches_of, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_heldout_reads_the_first_samples_once_in_order(corpus, world):
    parts = [
        batch.samples.tolist()
        for rank in range(world)
        for batch in heldout(corpus, 8, 50, rank, world)
    ]
    assert [number for part in parts for number in part] == list(range(50))
    everything = [batch.samples for batch in heldout(corpus, 8, 10**9, 0, 1)]
    assert sum(map(len, everything)) == len(ShardFolder(corpus))


def test_heldout_batches_number_the_masked_words(corpus):
    """Compares with the words in the shards, read sample by sample."""
    reader = ShardFolder(corpus)
    neighbours = 0
    for batch in heldout(corpus, 8, 50, 0, 1):
        expected = []
        for number in batch.samples:
            rows = reader.rows(np.array([number]))
            for position in rows.masks.positions:
                word = int(rows.word_starts[0, : position + 1].sum())
                neighbours += expected[-1:] == [(number, word - 1)]
                expected.append((number, word))
        order = {word: place for place, word in enumerate(dict.fromkeys(expected))}
        found = np.unique(batch.masked_words, return_inverse=True)[1]
        assert found.tolist() == [order[word] for word in expected]
        assert (np.diff(batch.masked_words) >= 0).all()
    assert neighbours  # neighbouring masked words, which only word starts separate


def test_training_does_not_ask_for_words(corpus):
    assert not any(len(batch.masked_words) for batch in feed_of(corpus, masking=DYNAMIC).step(0))


def test_the_fingerprint_names_what_differs(corpus, other):
    saved = feed_of(corpus)
    assert saved.fingerprint == feed_of(corpus, rank=1, world_size=2, micro_batch=4).fingerprint
    for change, field in (
        (feed_of(corpus, seed=4), "seed"),
        (feed_of(corpus, size=BatchSize(48)), "global_batch"),
        (feed_of(corpus, masking=DYNAMIC), "masking"),
        (feed_of(corpus, window=1), "window"),
        (feed_of(other), "corpora"),
    ):
        assert change.fingerprint != saved.fingerprint
        for error in (CheckpointError, ShardError):
            with pytest.raises(error, match=rf"\n  {field}: was "):
                require_same_data(saved.fingerprint_fields, change.fingerprint_fields)
    require_same_data(saved.fingerprint_fields, feed_of(corpus).fingerprint_fields)


def test_a_moved_corpus_is_the_same_corpus(corpus, tmp_path):
    make_corpus(tmp_path)
    assert feed_of(corpus).fingerprint == feed_of(str(tmp_path)).fingerprint


def test_shards_without_masks_allow_dynamic_masking_only(tmp_path):
    make_corpus(tmp_path, static=False)
    assert feed_of(str(tmp_path), masking=DYNAMIC).step(0)[0].masked_labels.size
    with pytest.raises(ShardError, match=r"masking\.mode=dynamic"):
        feed_of(str(tmp_path))
    with pytest.raises(ShardError, match="hold no masks"):
        next(heldout(str(tmp_path), 8, 8, 0, 1))


@pytest.mark.parametrize("shards", [(), ("{a}@1", "{a}"), ("{a}@x",), ("{a}@0",)])
def test_wrong_shard_settings_are_refused(corpus, shards):
    with pytest.raises(ShardError, match=r"train\.shards"):
        feed_of(*(shard.format(a=corpus) for shard in shards))


def test_an_empty_corpus_is_refused(tmp_path):
    make_corpus(tmp_path, shards=0)
    with pytest.raises(ShardError, match="no samples"):
        feed_of(str(tmp_path))


def test_the_background_thread_makes_steps_ahead(corpus, monkeypatch):
    feed, made = feed_of(corpus), threading.Event()
    step = feed.step

    def report(number, done):
        if number == base._AHEAD:
            made.set()
        return step(number, done)

    monkeypatch.setattr(feed, "step", report)
    steps = feed.iterate(0, 100)
    next(steps)
    assert made.wait(10)
    steps.close()
