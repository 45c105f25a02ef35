"""Damaged shards are named before training, or when they are read, or left out if asked."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.corpus.shards.reader import DamagedShard
from pipeline.corpus.shards.shard_file import open_batch
from pipeline.errors import ShardError
from pipeline.feed import checking
from pipeline.feed.checking import check_shards, known_damaged, truncated
from tests.pipeline.corpus.made import make_corpus
from tests.pipeline.feed.test_batches import feed_of

SECOND = "shard-00001.arrow"


@pytest.fixture
def corpus(tmp_path):
    make_corpus(tmp_path / "a")
    return tmp_path / "a"


def change(path: Path, edit) -> None:
    path.write_bytes(edit(path.read_bytes()))


def flip_a_bit(data: bytes) -> bytes:
    """In the middle, where the ids are."""
    return data[:2000] + bytes([data[2000] ^ 1]) + data[2001:]


def check(corpus, tmp_path, skip=False, say=print):
    check_shards([str(corpus), "s3://elsewhere"], tmp_path / "run", skip, say)


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda path: change(path, flip_a_bit), "its SHA-256 is not the manifest's"),
        (lambda path: change(path, lambda data: data[:-100]), "bytes, the manifest says"),
        (Path.unlink, "can't be read (No such file or directory)"),
    ],
)
def test_damage_is_found_before_training(corpus, tmp_path, monkeypatch, edit, problem):
    edit(corpus / SECOND)
    for _ in range(2):  # again, from the note
        with pytest.raises(ShardError, match="1 of 3 shards are damaged") as error:
            check(corpus, tmp_path)
        assert f"{corpus / SECOND}: " in str(error.value)
        assert problem in str(error.value)
    told = []
    check(corpus, tmp_path, skip=True, say=told.append)
    assert known_damaged(tmp_path / "run") == {str(corpus / SECOND)}
    assert len(told) == 1


def test_a_shard_that_was_mended_counts_again_although_none_is_checked(corpus, tmp_path):
    whole = (corpus / SECOND).read_bytes()
    (corpus / SECOND).unlink()
    check(corpus, tmp_path, skip=True)
    assert known_damaged(tmp_path / "run") == {str(corpus / SECOND)}
    (corpus / SECOND).write_bytes(whole)
    assert known_damaged(tmp_path / "run") == frozenset()


def test_ids_are_compared_with_the_vocabulary(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(checking, "open_batch", without_size)
    manifest = json.loads((corpus / "manifest.json").read_text("utf-8"))
    (corpus / "manifest.json").write_text(json.dumps({**manifest, "vocab_size": 20}), "utf-8")
    with pytest.raises(ShardError, match=r"input_ids holds \d+, and the vocabulary has 20 entries"):
        check(corpus, tmp_path)


def without_size(path, data, info, manifest):
    """A shard that does not say how many entries there are, as of another program."""
    size = int(pa.ipc.open_file(data).schema.metadata[b"vocab_size"])
    return open_batch(path, data, info, manifest.model_copy(update={"vocab_size": size}))


def test_a_shard_of_a_larger_vocabulary_is_named(corpus, tmp_path):
    manifest = json.loads((corpus / "manifest.json").read_text("utf-8"))
    (corpus / "manifest.json").write_text(json.dumps({**manifest, "vocab_size": 20}), "utf-8")
    with pytest.raises(ShardError, match=r"made with a vocabulary of \d+ entries"):
        check(corpus, tmp_path)


def test_shards_that_did_not_change_are_read_once(corpus, tmp_path, monkeypatch):
    check(corpus, tmp_path)
    read = []
    monkeypatch.setattr(checking, "_problem", lambda path, *_: read.append(path) or "")
    check(corpus, tmp_path)
    assert read == []
    change(corpus / SECOND, flip_a_bit)
    check(corpus, tmp_path)
    assert read == [corpus / SECOND]


def samples_in(corpus, number):
    rows = [shard["rows"] for shard in json.loads((corpus / "manifest.json").read_text())["shards"]]
    return set(range(sum(rows[:number]), sum(rows[: number + 1])))


def cut(path):
    path.open("r+b").truncate(1000)


def fill(path):
    """Every byte of ids, offsets and masks becomes 255, the schema stays."""
    change(path, lambda data: data[:1500] + b"\xff" * 12000 + data[13500:])


@pytest.mark.parametrize("damage", [cut, fill])
def test_a_shard_that_is_damaged_while_it_is_mapped(corpus, damage):
    """It is named, without an end of the process by SIGBUS; or its samples are left out."""
    told = []
    stopping, skipping = feed_of(str(corpus)), feed_of(str(corpus), tell=told.append)
    for feed in (stopping, skipping):
        feed.step(0)
    damage(corpus / SECOND)
    with pytest.raises(DamagedShard, match=SECOND):
        stopping.step(1)
    damaged = samples_in(corpus, 1)
    for batch in skipping.step(1):
        for row, sample in enumerate(batch.samples.tolist()):
            left_out = (batch.labels[row] == -100).all()
            assert left_out == (sample in damaged)
            assert sample not in damaged or batch.next_sentence_label[row] == -100
        assert np.array_equal(batch.labels.ravel()[batch.masked_positions], batch.masked_labels)
        assert batch.damaged == len(damaged & set(batch.samples.tolist()))
    assert len(told) == 1
    assert "its samples are left out" in told[0]


def test_a_known_damaged_shard_is_not_read(corpus):
    (corpus / SECOND).unlink()
    damaged = frozenset({str(corpus / SECOND)})
    whole, left = feed_of(str(corpus), tell=print, damaged=damaged), samples_in(corpus, 1)
    scored = [s for batch in whole.step(0) for s in batch.samples[(batch.labels >= 0).any(1)]]
    assert scored
    assert not left & set(scored)


def test_truncated_shards_are_found_by_their_size(corpus):
    assert truncated([str(corpus), "s3://elsewhere"]) == []
    cut(corpus / SECOND)
    (problem,) = truncated([str(corpus)])
    assert SECOND in problem
