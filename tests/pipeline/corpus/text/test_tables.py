"""Parquet and Arrow: columns of every type, rows that are no text, and damage."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.corpus.text.reading import read_unit
from pipeline.corpus.text.sources import list_sources
from pipeline.corpus.text.units import plan_units
from pipeline.errors import CorpusError
from pipeline.settings.corpus import CorpusSettings
from tests.pipeline.corpus import raw

TEXTS = ["第一篇", "", "第三篇"]
COLUMNS = {
    "string": pa.array(TEXTS),
    "large_string": pa.array(TEXTS, pa.large_string()),
    "string_view": pa.array(TEXTS, pa.string_view()),
    "dictionary": pa.array(TEXTS).dictionary_encode(),
    "binary": pa.array([text.encode() for text in TEXTS], pa.binary()),
    "large_binary": pa.array([text.encode() for text in TEXTS], pa.large_binary()),
    "binary_dictionary": pa.array([text.encode() for text in TEXTS]).dictionary_encode(),
    "list": pa.array([[text] for text in TEXTS]),
    "list_of_binary": pa.array([[text.encode()] for text in TEXTS]),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_parquet_columns_of_every_type_of_text(tmp_path, kind):
    pq.write_table(pa.table({"text": COLUMNS[kind]}), tmp_path / "a.parquet")
    documents, dropped = raw.read(tmp_path / "a.parquet")
    assert [document.text for document in documents] == TEXTS
    assert not dropped


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_text_in_a_struct(tmp_path, name):
    path, inner = tmp_path / name, [{"n": 1, "b": {"text": text}} for text in TEXTS]
    table = pa.table({"id": [1, 2, 3, 4], "meta": [*inner, None]})
    if name == "a.parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(path, table.schema) as file:
            file.write_table(table)
    documents, dropped = raw.read(path, text_field="meta.b.text")
    assert [document.text for document in documents] == TEXTS
    assert [drop.reason for drop in dropped] == ["malformed"]
    with pytest.raises(CorpusError, match=r"to one of id, meta\.n, meta\.b"):
        raw.read(path, text_field="meta.text")


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
@pytest.mark.parametrize("numbered", [False, True])
def test_long_rows_are_many_shards_and_not_one(tmp_path, name, numbered):
    """Thousands of rows at a time would be gigabytes, where a row is a book."""
    books = [f"第{n}本" * 1000 for n in range(100)]
    column = pa.array(books).dictionary_encode() if numbered else pa.array(books)
    path, table = tmp_path / name, pa.table({"text": column})
    if name == "a.parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(path, table.schema) as file:
            file.write_table(table)
    settings = CorpusSettings(inputs=(str(path),), shard_megabytes=0.05)
    (unit,) = plan_units(list_sources(settings.inputs, settings), settings)
    *chunks, _ = read_unit(unit, settings)
    sizes = [sum(block.size for block in chunk.blocks) for chunk in chunks]
    assert sum(sizes) > 700_000
    assert max(sizes) < 150_000
    assert raw.texts(path, shard_megabytes=0.05) == books


def test_many_small_row_groups_are_read_together(tmp_path):
    """Opening the file for each of them takes time quadratic in their number."""
    texts = [f"第{n}篇" for n in range(60)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", row_group_size=1)
    settings = CorpusSettings(inputs=(str(tmp_path / "a.parquet"),), shard_megabytes=0.002)
    units = plan_units(list_sources(settings.inputs, settings), settings)
    assert len(units) > 2
    assert [len(unit.ranges) for unit in units] == [1] * len(units)
    assert raw.texts(tmp_path / "a.parquet", shard_megabytes=0.002) == texts


@pytest.mark.parametrize("kind", ["string", "large_string", "binary", "list", "words"])
def test_a_parquet_row_that_is_not_utf8_is_dropped_with_its_place(tmp_path, kind):
    values = [b"\xe5\xa5\xbd", b"\xff\xfe", b"\xe4\xba\x8c"]
    column = pa.array(values, pa.binary())
    if kind != "binary":
        column = pa.StringArray.from_buffers(3, *column.buffers()[1:])
    if kind == "large_string":
        column = pa.array(values, pa.large_binary()).view(pa.large_string())
    elif kind == "words":  # a list of dictionary values
        column = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2], pa.int32()), column)
    if kind in ("list", "words"):
        column = pa.ListArray.from_arrays([0, 1, 2, 3], column)
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    documents, (drop,) = raw.read(tmp_path / "a.parquet")
    assert [document.text for document in documents] == ["好", "二"]
    assert drop[:4] == ("undecodable", r"\xff\xfe", f"{tmp_path}/a.parquet:1", 2)


def test_a_dictionary_that_is_not_utf8_is_dropped_whole_as_arrow_refuses_to_read_it(tmp_path):
    column = pa.StringArray.from_buffers(2, *pa.array([b"\xff", b"a"]).buffers()[1:])
    table = pa.table({"text": pa.DictionaryArray.from_arrays(pa.array([0, 1]), column)})
    pq.write_table(table, tmp_path / "a.parquet")
    documents, (drop,) = raw.read(tmp_path / "a.parquet")
    assert not documents
    assert drop.text == f"{tmp_path}/a.parquet: row 0: Invalid UTF8 payload"


def test_bytes_in_parquet_have_the_named_encoding(tmp_path):
    pq.write_table(pa.table({"text": ["汉字".encode("gbk")]}), tmp_path / "a.parquet")
    assert raw.texts(tmp_path / "a.parquet", encoding="gb18030") == ["汉字"]


def test_nulls_and_numbers_in_parquet_are_malformed(tmp_path):
    pq.write_table(pa.table({"text": ["甲", None, "乙"]}), tmp_path / "a.parquet")
    documents, (drop,) = raw.read(tmp_path / "a.parquet")
    assert [document.text for document in documents] == ["甲", "乙"]
    assert (drop.reason, drop.text, drop.place) == ("malformed", "None", f"{tmp_path}/a.parquet:1")
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "a.parquet")
    assert [drop.reason for drop in raw.read(tmp_path / "a.parquet")[1]] == ["malformed"] * 2


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.99])
def test_a_parquet_file_without_its_footer_is_an_error_that_names_it(tmp_path, kept):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"第{n}篇" for n in range(1000)]}), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)] or b"x")
    with pytest.raises(CorpusError, match=r"a\.parquet: can't be read"):
        raw.read(path)


def test_damaged_pages_of_parquet_are_dropped_with_the_row(tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.table({"text": [f"第{n}篇" for n in range(1000)]})
    pq.write_table(table, path, compression="zstd", row_group_size=500, use_dictionary=False)
    data = bytearray(path.read_bytes())
    start = pq.read_metadata(path).row_group(1).column(0).data_page_offset
    data[start + 30 : start + 300] = bytes(270)
    path.write_bytes(data)
    documents, (drop,) = raw.read(path)
    assert [document.text for document in documents] == [f"第{n}篇" for n in range(500)]
    assert drop.reason == "damaged_file"
    assert f"{path}: row 500" in drop.text


@pytest.mark.parametrize("kind", ["text", "list", "numbered"])
def test_arrow_whose_lengths_are_damaged_is_dropped(tmp_path, kind):
    """Arrow does not check them: it takes any memory for text, or ends the process."""
    values = pa.array(["第一篇文字"] * 100)
    column = {
        "text": values,
        "list": pa.ListArray.from_arrays(range(101), values),
        "numbered": pa.array([str(n) for n in range(100)]).dictionary_encode(),
    }[kind]
    table = pa.table({"text": column})
    with pa.ipc.new_stream(tmp_path / "a.arrow", table.schema) as file:
        file.write_table(table)
    numbers = (np.arange(40, 60, dtype=np.int32) * (15 if kind == "text" else 1)).tobytes()
    data = (tmp_path / "a.arrow").read_bytes()
    assert data.count(numbers) == 1
    (tmp_path / "a.arrow").write_bytes(data.replace(numbers, b"\x7f" * len(numbers)))
    documents, (drop,) = raw.read(tmp_path / "a.arrow")
    assert not documents
    assert (drop.reason, drop.place) == ("damaged_file", f"{tmp_path}/a.arrow: row 0")


def test_two_columns_of_the_name_are_refused(tmp_path):
    table = pa.Table.from_arrays([pa.array(["甲"]), pa.array(["乙"])], ["text", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match=r"a\.parquet: 2 columns have the name 'text'"):
        raw.read(tmp_path / "a.parquet")


@pytest.mark.parametrize("target", [16.0, 1e-4])
@pytest.mark.parametrize("kind", [pa.ipc.new_file, pa.ipc.new_stream])
def test_arrow_files_and_streams(tmp_path, kind, target):
    """Feather is the first one, Hugging Face's `save_to_disk` writes the second one."""
    table = pa.table({"other": list(range(150)), "text": ["一", "二\n三", "四"] * 50})
    with kind(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=20)
    documents, dropped = raw.read(tmp_path / "a.arrow", shard_megabytes=target)
    assert [document.text for document in documents] == table["text"].to_pylist()
    assert len({document.number for document in documents}) == 150
    assert not dropped
    with pytest.raises(CorpusError, match=r"a\.arrow: no column 'body'.*other, text"):
        raw.read(tmp_path / "a.arrow", text_field="body")


@pytest.mark.parametrize("kind", [pa.ipc.new_file, pa.ipc.new_stream])
def test_arrow_without_rows_and_damaged_arrow_are_said(tmp_path, kind):
    schema = pa.schema({"text": pa.string()})
    kind(tmp_path / "empty.arrow", schema).close()
    assert [drop.reason for drop in raw.read(tmp_path / "empty.arrow")[1]] == ["empty_file"]
    with kind(tmp_path / "cut.arrow", schema) as writer:
        for _ in range(3):
            writer.write_table(pa.table({"text": ["一二三" * 1000]}))
    data = (tmp_path / "cut.arrow").read_bytes()
    (tmp_path / "cut.arrow").write_bytes(data[: len(data) // 2])
    if kind is pa.ipc.new_file:  # which has its index at its end
        with pytest.raises(CorpusError, match=r"cut\.arrow"):
            raw.read(tmp_path / "cut.arrow")
    else:
        documents, (drop,) = raw.read(tmp_path / "cut.arrow")
        assert len(documents) == 1
        assert drop.reason == "damaged_file"
        assert f"{tmp_path}/cut.arrow: row 1: " in drop.text
