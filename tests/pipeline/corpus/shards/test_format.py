"""Shards are read as they were written; errors say what to do."""

import hashlib
import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.corpus.records import Masks
from pipeline.corpus.samples.masks import no_masks, sample_keys
from pipeline.corpus.samples.pairs import build_pairs
from pipeline.corpus.shards import format as shards
from pipeline.corpus.shards import reader
from pipeline.corpus.shards.address_space import AddressRange
from pipeline.corpus.shards.format import is_corpus, read_manifest, write_shard
from pipeline.corpus.shards.reader import ShardFolder, flat_pairs
from pipeline.errors import ShardError
from pipeline.settings.corpus import PairSettings
from tests.pipeline.corpus.made import make_corpus, random_text, text_of, texts, write_corpus


def table_of(path):
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


def some_pairs(seed=0, documents=8):
    return build_pairs(random_text(seed, documents), PairSettings(), 64, 2, 3, seed)


def some_masks(pairs):
    """The second token of every sample, shown as id 7."""
    rows = len(pairs.documents)
    return Masks(np.ones(rows, np.int64), np.full(rows, 7, np.int32), np.arange(rows + 1))


def test_the_columns_have_the_documented_types(tmp_path):
    pairs = some_pairs()
    info = write_shard(tmp_path / "a.arrow", pairs, some_masks(pairs), {"seed": "1"}, 1000)
    table = table_of(tmp_path / "a.arrow")
    assert {field.name: str(field.type).replace(" not null", "") for field in table.schema} == {
        "input_ids": "list<item: uint16>",
        "segment_b_start": "uint16",
        "word_starts": "list<item: bool>",
        "masked_positions": "list<item: uint16>",
        "masked_ids": "list<item: uint16>",
        "next_sentence_label": "uint8",
        "document": "uint64",
    }
    assert table.schema.metadata[b"seed"] == b"1"
    assert table.schema.metadata[b"schema_version"] == str(shards.SCHEMA_VERSION).encode()
    data = (tmp_path / "a.arrow").read_bytes()
    assert info.sha256 == hashlib.sha256(data).hexdigest()
    assert (info.name, info.rows, info.tokens, info.bytes) == (
        "a.arrow",
        len(pairs.documents),
        len(pairs.input_ids),
        len(data),
    )
    assert table["input_ids"].to_pylist()[3] == pairs.input_ids[slice(*pairs.offsets[3:5])].tolist()
    assert table["document"].to_pylist() == pairs.documents.tolist()
    assert table["masked_ids"].to_pylist() == [[7]] * len(pairs.documents)


def test_large_vocabularies_take_four_bytes_an_id(tmp_path):
    text = random_text(0, 4)
    text = text._replace(ids=text.ids + 70_000)
    pairs = build_pairs(text, PairSettings(), 64, 2, 3, 0)
    (info,) = write_corpus(tmp_path, (pairs, some_masks(pairs)), vocab_size=80_000).shards
    assert table_of(tmp_path / info.name).schema.field("input_ids").type.value_type == pa.uint32()
    rows = ShardFolder(tmp_path).rows(np.arange(info.rows))
    assert (flat_pairs(rows).input_ids == pairs.input_ids).all()


def test_the_same_samples_give_the_same_bytes(tmp_path):
    pairs = some_pairs()
    for name, tags in (("a", {"x": "1", "y": "2"}), ("b", {"y": "2", "x": "1"})):
        write_shard(tmp_path / name, pairs, some_masks(pairs), tags, 1000)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_shard(tmp_path / "a.arrow", some_pairs(), None, {}, 1000)
    assert list(tmp_path.iterdir()) == []


def test_ids_outside_the_vocabulary_are_refused(tmp_path):
    with pytest.raises(ShardError, match="outside the vocabulary of 100"):
        write_shard(tmp_path / "a.arrow", some_pairs(), None, {}, 100)


def test_shards_and_manifest_go_to_object_stores(tmp_path):
    pairs = some_pairs()
    written = write_corpus("memory://corpus", (pairs, None))
    assert not is_corpus(tmp_path)
    assert read_manifest("memory://corpus") == written == write_corpus(tmp_path, (pairs, None))
    assert is_corpus("memory://corpus/")
    assert is_corpus(tmp_path)
    assert not is_corpus("memory://other")


@settings(max_examples=40)
@given(texts(max_words=20), st.booleans(), st.data())
def test_any_rows_in_any_order_are_read_as_written(tmp_path_factory, text, masked, data):
    folder = tmp_path_factory.mktemp("corpus")
    written = build_pairs(text, PairSettings(), 64, 2, 3, 0)
    masks = some_masks(written) if masked else None
    count = write_corpus(folder, (written, masks)).rows
    if not count:
        return
    numbers = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=9))
    rows = ShardFolder(folder).rows(np.array(numbers), multiple=8)
    assert rows.input_ids.shape[1] % 8 == 0
    pairs = flat_pairs(rows)
    for place, number in enumerate(numbers):
        for column in ("input_ids", "word_starts"):
            expected = getattr(written, column)[slice(*written.offsets[number : number + 2])]
            got = getattr(pairs, column)[slice(*pairs.offsets[place : place + 2])]
            assert (got == expected).all()
        for column in ("segment_b_start", "next_sentence_label", "documents"):
            assert getattr(pairs, column)[place] == getattr(written, column)[number]
    assert rows.masks.ids.tolist() == [7] * len(numbers) * masked


def test_samples_are_numbered_through_all_folders(tmp_path):
    manifests = [make_corpus(tmp_path / str(seed), seed) for seed in range(3)]
    together = ShardFolder(*(tmp_path / str(seed) for seed in range(3)))
    assert len(together) == sum(manifest.rows for manifest in manifests)
    at = manifests[0].rows + manifests[1].shards[0].rows + 2
    alone = ShardFolder(tmp_path / "1").rows(np.array([manifests[1].shards[0].rows + 2]))
    both = together.rows(np.array([0, at]))
    assert both.documents[1] == alone.documents[0]
    assert (both.input_ids[1, : alone.lengths[0]] == alone.input_ids[0, : alone.lengths[0]]).all()


@pytest.mark.parametrize("length", [64, 4096])
def test_a_shard_in_which_nothing_is_masked_is_read_together_with_others(tmp_path, length):
    """Such as one of a single short sample, for which no mask was drawn; or one without masks."""
    pairs = some_pairs()
    masked, none = some_masks(pairs), no_masks(len(pairs.documents))
    made = [(pairs, none), (pairs, masked), (pairs, None)]
    rows = write_corpus(tmp_path, *made, masks="static", sequence_length=length).shards[0].rows
    read = ShardFolder(tmp_path).rows(np.arange(3 * rows)[::-1])
    assert np.diff(read.masks.offsets).tolist() == [0] * rows + [1] * rows + [0] * rows
    assert (read.masks.ids == 7).all()


def test_the_mapped_bytes_stay_within_the_limit(tmp_path):
    manifest = make_corpus(tmp_path, shards=5)
    limit = 2 * max(shard.bytes for shard in manifest.shards)
    reader, whole = ShardFolder(tmp_path, mapped_bytes=limit), ShardFolder(tmp_path)
    random = np.random.default_rng(0)
    for _ in range(50):
        number = random.integers(0, len(reader), 1)
        assert (reader.rows(number).input_ids == whole.rows(number).input_ids).all()
        assert sum(manifest.shards[shard].bytes for shard in reader._mapped) <= limit


def test_no_more_shards_are_mapped_than_the_kernel_allows(tmp_path, monkeypatch):
    make_corpus(tmp_path, shards=6)
    whole = ShardFolder(tmp_path)
    numbers = np.random.default_rng(0).integers(0, len(whole), 200)
    expected = whole.rows(numbers)
    monkeypatch.setattr(reader, "_most_maps", lambda: 4)
    folder = ShardFolder(tmp_path)
    for number, row in zip(numbers.tolist(), expected.documents.tolist(), strict=True):
        assert folder.rows(np.array([number])).documents.tolist() == [row]
        assert len(folder._mapped) <= 2


@pytest.mark.parametrize("top", [2**47, 2**48, 2**56])
def test_memory_may_lie_at_any_address(top):
    memory = AddressRange(0, 0).including(top - 2**46, top - 2**46 + 100).including(top - 50, top)
    for kind in ("u1", "<u2", "<i4", "<u8"):
        assert memory._view(512, kind).shape[1] == 512
    values = np.arange(100, dtype=np.uint16)
    begin = values.ctypes.data
    memory = AddressRange(0, 0).including(begin, begin + values.nbytes)
    found = memory.windows(np.array([begin, begin]), np.array([90, 3]), 4, "<u2")
    assert found.tolist() == [[90, 91, 92, 93], [3, 4, 5, 6]]
    with pytest.raises(IndexError):
        memory.gather(np.array([top + 4096]), np.array([0]), "<u2")


def test_folders_of_different_vocabularies_are_refused_together(tmp_path):
    make_corpus(tmp_path / "a")
    make_corpus(tmp_path / "b", vocab_sha256="w")
    with pytest.raises(ShardError, match="different vocabularies"):
        ShardFolder(tmp_path / "a", tmp_path / "b")


def test_numbers_beyond_the_last_are_refused(tmp_path):
    make_corpus(tmp_path)
    reader = ShardFolder(tmp_path)
    for number in (-1, len(reader)):
        with pytest.raises(IndexError):
            reader.rows(np.array([number]))


def read_first(folder):
    return ShardFolder(folder).rows(np.array([0]))


def damage(path, change):
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "not a finished corpus"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "damaged"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "damaged"),
        (lambda folder: (folder / "shard-00000.arrow").unlink(), "missing"),
        (lambda folder: damage(folder / "shard-00000.arrow", lambda d: d[:-1]), "manifest says"),
        (lambda folder: damage(folder / "shard-00000.arrow", lambda d: bytes(len(d))), "readable"),
    ],
)
def test_a_damaged_folder_is_an_error_that_says_what_to_do(tmp_path, harm, message):
    make_corpus(tmp_path)
    harm(tmp_path)
    with pytest.raises(ShardError, match=message):
        read_first(tmp_path)


def test_a_file_in_place_of_a_folder_is_refused(tmp_path):
    make_corpus(tmp_path)
    for name in ("manifest.json", "shard-00000.arrow"):
        with pytest.raises(ShardError, match="Not a directory; name the folder of a corpus"):
            read_first(tmp_path / name)


def test_another_schema_version_is_refused(tmp_path):
    make_corpus(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))
    with pytest.raises(
        ShardError, match=f"schema version 99, this program reads {shards.SCHEMA_VERSION}"
    ):
        read_first(tmp_path)


def test_a_shard_of_another_schema_version_is_refused(tmp_path, monkeypatch):
    pairs = some_pairs()
    now = shards.SCHEMA_VERSION
    monkeypatch.setattr(shards, "SCHEMA_VERSION", 99)
    write_corpus(tmp_path, (pairs, None), schema_version=now)
    monkeypatch.undo()
    with pytest.raises(ShardError, match="schema version 99"):
        read_first(tmp_path)


def test_damaged_offsets_are_an_error_not_a_crash(tmp_path):
    pairs = some_pairs()
    write_corpus(tmp_path, (pairs, None))
    offsets = pairs.offsets.astype(np.int32).tobytes()
    wild = np.array([0, 2**30], np.int32).tobytes()
    damage(
        tmp_path / "shard-00000.arrow",
        lambda data: data.replace(offsets, wild + offsets[len(wild) :]),
    )
    with pytest.raises(ShardError, match="damaged offsets"):
        read_first(tmp_path)


def test_sample_keys_fill_the_64_bits():
    keys = sample_keys(0, 0, np.arange(1000, dtype=np.uint64))
    bits = np.unpackbits(keys.view(np.uint8)).mean()
    assert bits == pytest.approx(0.5, abs=0.01)
    assert len(np.unique(keys)) == 1000


def test_a_text_without_samples_is_an_empty_shard(tmp_path):
    empty = build_pairs(text_of([], []), PairSettings(), 64, 2, 3, 0)
    write_corpus(tmp_path, (empty, None))
    assert len(ShardFolder(tmp_path)) == 0
