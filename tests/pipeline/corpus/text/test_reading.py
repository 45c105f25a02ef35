import io
import json
import os
import random
import tarfile
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus.text import blocks, reading
from pipeline.corpus.text.parsing import fault
from pipeline.corpus.text.sources import list_sources
from pipeline.corpus.text.units import plan_units
from pipeline.errors import ConfigError, CorpusError
from pipeline.settings.corpus import CorpusSettings
from pipeline.settings.reading.config_file import load_config
from tests.pipeline.corpus import raw

CHINESE = st.text(st.sampled_from("天地玄黄宇宙洪荒，。abc 1\t🙂"), max_size=30)
TEXTS = ["第一篇文章。", "第二篇\n有两段。", "third 三"]


@given(st.lists(CHINESE, min_size=1, max_size=40), st.integers(20, 600))
def test_any_cut_gives_each_line_once_and_in_order(texts, target):
    with tempfile.TemporaryDirectory() as folder:
        path = raw.write(Path(folder) / "a.jsonl", raw.jsonl(texts))
        whole, _ = raw.read(path)
        cut, dropped = raw.read(path, shard_megabytes=target / 1e6)
    assert [document.text for document in cut] == texts
    assert [document.number for document in cut] == [document.number for document in whole]
    assert not dropped


@given(st.lists(st.lists(CHINESE.filter(str.strip), min_size=1, max_size=4), min_size=1), st.data())
def test_blank_lines_separate_documents_for_any_cut(documents, data):
    documents = [[line.replace("\t", " ") for line in lines] for lines in documents]
    blank = data.draw(st.sampled_from(["\n\n", "\n \r\n", "\n\n\n"]))
    text = blank.join("\n".join(lines) for lines in documents)
    target = data.draw(st.integers(10, 500)) / 1e6
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("", ".gz"):
            path = raw.write(Path(folder) / f"a.txt{suffix}", text.encode())
            assert raw.texts(path, shard_megabytes=target) == ["\n".join(x) for x in documents]


@pytest.mark.parametrize("suffix", raw.COMPRESS)
@pytest.mark.parametrize("target", [16.0, 5e-5])
def test_every_compression_reads_the_same(tmp_path, suffix, target):
    path = raw.write(tmp_path / f"a.jsonl{suffix}", raw.jsonl(TEXTS * 20))
    assert raw.texts(path, shard_megabytes=target) == TEXTS * 20


def test_two_zstd_frames_in_one_file(tmp_path):
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(b"".join(raw.COMPRESS[".zst"](raw.jsonl([text])) for text in TEXTS))
    assert raw.texts(path) == TEXTS


def test_a_text_file_is_one_document(tmp_path):
    path = raw.write(tmp_path / "a.txt", "题目\n\n第一段。\n".encode())
    assert raw.texts(path, format="text") == ["题目\n\n第一段。\n"]


def test_the_text_field_can_be_named_and_hold_paragraphs(tmp_path):
    rows = [{"content": "甲"}, {"content": ["乙", "丙"]}]
    path = raw.write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)).encode())
    assert raw.texts(path, text_field="content") == ["甲", "乙\n丙"]


def test_the_text_field_can_stand_in_an_inner_object(tmp_path):
    rows = [{"meta": {"text": "甲"}}, {"meta.text": "乙", "meta": {"text": "丙"}}, {"meta": "丁"}]
    rows += [{"meta": {"text": {"text": "戊"}}}, {"meta": {}}]
    path = raw.write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)).encode())
    documents, dropped = raw.read(path, text_field="meta.text")
    assert [document.text for document in documents] == ["甲", "乙"]
    assert len(dropped) == 3


@pytest.mark.parametrize("target", [16.0, 1e-4])
def test_parquet(tmp_path, target):
    table = pa.table({"text": TEXTS * 50, "other": list(range(150))})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=20)
    documents, dropped = raw.read(tmp_path / "a.parquet", shard_megabytes=target)
    assert [document.text for document in documents] == TEXTS * 50
    assert len({document.number for document in documents}) == 150
    assert not dropped
    with pytest.raises(CorpusError, match=r"no column 'body'.*text, other"):
        raw.read(tmp_path / "a.parquet", text_field="body")


@pytest.mark.parametrize("blank", ["", " \t", "\u3000", "\xa0", "\u200b", "\ufeff\u2060 "])
def test_a_line_without_a_visible_character_ends_a_document(tmp_path, blank):
    path = raw.write(tmp_path / "a.txt", f"一\n二\n{blank}\n三\n".encode())
    assert raw.texts(path) == ["一\n二", "三"]


@pytest.mark.parametrize("target", [100, 10**6])
def test_json_lines_may_be_called_text(tmp_path, target):
    """Both a file that is cut into ranges and one that is not; prose may hold braces."""
    texts = raw.write_texts(30)
    path = raw.write(tmp_path / "a.txt", raw.jsonl(texts))
    assert raw.texts(path, shard_megabytes=target / 1e6) == texts
    prose = '{"这": "是"}\n一个例子。'
    assert raw.texts(raw.write(tmp_path / "b.txt", prose.encode())) == [prose]
    long = raw.jsonl(["很长。" * 100_000])
    assert raw.texts(raw.write(tmp_path / "c.txt", long)) == ["很长。" * 100_000]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt"])
@pytest.mark.parametrize("form", ["{}\n{}\n", "[{},\n{}]", "[\n{},\n{}\n]"])
def test_json_strings_may_hold_tabs_and_control_characters_as_they_are(tmp_path, name, form):
    rows = ['{"text": "第一\t段\0\x1b。"}', '{"id":\t"\x01", "text": "第二段。"}']
    path = raw.write(tmp_path / name, form.format(*rows).encode())
    assert raw.texts(path) == ["第一\t段\0\x1b。", "第二段。"]
    path = raw.write(tmp_path / name, b'{"a": "\t"}\n')
    assert fault(*raw.read(path, format="jsonl")[1], "text").endswith("one of: a")


@pytest.mark.parametrize("zeros", [1, 5000])
@pytest.mark.parametrize("torn", ["", '{"text": "写到一', '{"te', "}"])
def test_objects_behind_the_zero_bytes_of_a_crash_are_read(tmp_path, torn, zeros):
    """The writer went on in the line that the crash had cut off."""
    first, second = (raw.jsonl([f"第{number}段文字。"]) for number in "一二")
    begin = first.removesuffix(b"\n") + (b"\n" + torn.encode() if torn else b"")
    path = raw.write(tmp_path / "a.jsonl", begin + bytes(zeros) + second + first)
    documents, drops = raw.read(path)
    assert [each.text[1] for each in documents] == ["一", "二", "一"]
    assert [drop.text for drop in drops] == [torn] * bool(torn)
    places = [each.place for each in documents]
    data = path.read_bytes()
    second_place = data.index('{"text": "第二'.encode())
    assert places == [f"{path}:{i}" for i in (0, second_place, second_place + len(second))]


def test_undecodable_lines_are_dropped_with_file_and_byte(tmp_path):
    data = raw.jsonl(["好的一行"]) + b'{"text": "\xff\xfe"}\n' + raw.jsonl(["又一行"])
    path = raw.write(tmp_path / "a.jsonl", data)
    documents, (drop,) = raw.read(path)
    assert [document.text for document in documents] == ["好的一行", "又一行"]
    assert drop.reason == "undecodable"
    assert drop.place == f"{path}:{data.index(0xFF)}"
    assert r"\xff\xfe" in drop.text
    assert drop.size == 14


@pytest.mark.parametrize(
    "line",
    [
        *("{", "[]", "null", '"text"', "}{", "not JSON", "[" * 100_000),
        *('{"text": 3}', '{"body": "x"}', '{"text": null}', '{"text": {"a": "b"}}'),
        *('{"text": ["a", 1]}', '{"text": "\\ud800"}', '{"text": ["\\ud800"]}'),
    ],
    ids=lambda line: line[:20],
)
def test_malformed_lines_are_dropped_and_the_rest_is_read(tmp_path, line):
    path = raw.write(
        tmp_path / "a.jsonl", raw.jsonl(["前"]) + line.encode() + b"\n\n" + raw.jsonl(["后"])
    )
    documents, (drop,) = raw.read(path)
    assert [document.text for document in documents] == ["前", "后"]
    assert (drop.reason, drop.text, drop.size) == ("malformed", line, len(line))


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("target", [16.0, 0.05])
def test_a_truncated_file_gives_its_whole_records_and_is_named(tmp_path, suffix, target):
    texts = [f"{number} {os.urandom(30).hex()}" for number in range(20000)]
    path = raw.write(tmp_path / f"a.jsonl{suffix}", raw.jsonl(texts))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    documents, (drop,) = raw.read(path, shard_megabytes=target)
    # Block compressors give nothing of an incomplete block, which may be the whole file.
    assert [document.text for document in documents] == texts[: len(documents)]
    assert len(documents) < len(texts)
    assert drop.reason == "damaged_file"
    assert str(path) in drop.text


def test_binary_noise_is_dropped(tmp_path):
    noise = os.urandom(300_000)
    path = raw.write(tmp_path / "a.jsonl", noise)
    documents, dropped = raw.read(path, shard_megabytes=0.05)
    assert not documents
    assert {drop.reason for drop in dropped} <= {"undecodable", "malformed"}
    assert sum(drop.size for drop in dropped) > 0.95 * len(noise)


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r", "\r\r\n"])
@pytest.mark.parametrize("target", [16.0, 1e-4, 2e-5])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_line_ends_of_every_system(tmp_path, ends, target, suffix):
    settings = {"shard_megabytes": target}
    lines = [f"第{number}行" for number in range(40)]
    path = raw.write(tmp_path / f"a.txt{suffix}", f"{ends}{ends}".join(lines).encode())
    assert [text.strip("\r") for text in raw.texts(path, **settings)] == lines
    data = raw.jsonl(lines).replace(b"\n", ends.encode())
    documents, dropped = raw.read(raw.write(tmp_path / f"a.jsonl{suffix}", data), **settings)
    assert [document.text for document in documents] == lines
    assert not dropped
    assert len({document.number for document in documents}) == len(lines)


@given(
    st.lists(
        st.tuples(CHINESE.filter(str.strip), st.sampled_from(["\n", "\r\n", "\r"])), min_size=1
    ),
    st.integers(10, 300),
)
def test_mixed_line_ends_in_one_file(lines, target):
    text = "".join(json.dumps({"text": line}) + end for line, end in lines)
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("", ".gz"):
            path = raw.write(Path(folder) / f"a.jsonl{suffix}", text.encode())
            documents, dropped = raw.read(path, shard_megabytes=target / 1e6)
            assert [document.text for document in documents] == [line for line, _ in lines]
            assert not dropped


@pytest.mark.parametrize("codec", ["utf-8", "gb18030"])
@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".txt.gz", ".jsonl.gz"])
def test_a_record_may_go_on_through_many_ranges(tmp_path, codec, suffix):
    texts = ["前", "很长的一行，" * 200_000, "后", "第二个很长的，" * 100_000]
    data = raw.jsonl(texts) if "jsonl" in suffix else "\n\n".join(texts).encode()
    path = raw.write(tmp_path / f"a{suffix}", data.decode().encode(codec))
    assert raw.texts(path, shard_megabytes=0.05) == texts


@pytest.mark.parametrize("form", ["lines", "jsonl", "csv"])
def test_reading_a_long_record_takes_a_number_of_bytes_linear_in_its_length(
    tmp_path, monkeypatch, form
):
    """Counted, not timed: ranges within a record once looked for its end each."""
    read = []
    opened = reading.filesystem("x")[0].open

    def counting(*arguments, **settings):
        file = opened(*arguments, **settings)
        take = file.read
        file.read = lambda size=-1: read.append(data := take(size)) or data
        return file

    monkeypatch.setattr(type(reading.filesystem("x")[0]), "open", staticmethod(counting))
    path = tmp_path / "a"
    path.write_bytes({"jsonl": b'{"text": "', "lines": b"", "csv": b"text\n"}[form])
    with path.open("ab") as file:
        file.write(b"x" * 3_000_000 + (b'"}' if form == "jsonl" else b"") + b"\n")
    documents, dropped = raw.read(path, format=form, shard_megabytes=0.01)
    assert [len(document.text) for document in documents] == [3_000_000]
    assert not dropped
    assert sum(map(len, read)) < 40_000_000  # three times and SEARCHED_BYTES for each range


@pytest.mark.parametrize("codec", ["utf-8", "gb18030"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_record_that_is_too_long_is_cut_between_characters(tmp_path, monkeypatch, codec, suffix):
    monkeypatch.setattr(blocks, "RECORD_BYTES", 20_000)
    text = "".join(random.Random(0).choices("春天，a早晨公园里老人慢打着太极拳𠀀", k=100_000))
    path = raw.write(tmp_path / f"a.txt{suffix}", f"前\n\n{text}\n\n后".encode(codec))
    documents, dropped = raw.read(path, shard_megabytes=0.01)
    assert "".join(document.text for document in documents) == f"前{text}后"
    assert not dropped
    assert max(len(document.text) for document in documents) < 20_000


def test_a_record_without_end_is_cut_so_that_memory_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "RECORD_BYTES", 1 << 20)
    for suffix in ("", ".gz"):
        path = raw.write(tmp_path / f"a.txt{suffix}", b"x" * (5 << 20))
        documents, _ = raw.read(path, shard_megabytes=1)
        assert sum(len(document.text) for document in documents) == 5 << 20
        assert max(len(document.text) for document in documents) < 3 << 20


def test_a_file_that_vanished_or_changed_is_an_error_that_names_it(tmp_path):
    path = raw.write(tmp_path / "a.jsonl", raw.jsonl(TEXTS))
    corpus = CorpusSettings(inputs=(str(path),))
    (unit,) = plan_units(list_sources(corpus.inputs, corpus), corpus)
    raw.write(path, raw.jsonl(["别的"]))
    with pytest.raises(CorpusError, match=r"a\.jsonl: has \d+ bytes and had \d+"):
        list(reading.read_unit(unit, corpus))
    path.unlink()
    with pytest.raises(CorpusError, match=r"a\.jsonl: the file vanished"):
        list(reading.read_unit(unit, corpus))


def test_a_file_that_becomes_shorter_while_it_is_read_is_an_error(tmp_path):
    path = raw.write(tmp_path / "a.jsonl", raw.jsonl(TEXTS * 20))
    corpus = CorpusSettings(inputs=(str(path),), shard_megabytes=1e-4)
    unit = plan_units(list_sources(corpus.inputs, corpus), corpus)[0]
    with pytest.raises(EOFError, match="became shorter"):
        list(blocks.range_blocks(io.BytesIO(b""), unit.ranges[0], 100))


def test_whatever_a_library_raises_is_an_error_that_names_the_file(tmp_path, monkeypatch):
    path = raw.write(tmp_path / "a.jsonl", raw.jsonl(TEXTS))
    corpus = CorpusSettings(inputs=(str(path),))
    (unit,) = plan_units(list_sources(corpus.inputs, corpus), corpus)
    for error in (PermissionError(13, "Permission denied"), RuntimeError("no credentials")):

        def refuse(*arguments, error=error, **settings):
            raise error

        monkeypatch.setattr(type(reading.filesystem("x")[0]), "open", refuse)
        with pytest.raises(CorpusError, match=r"a\.jsonl: can't be read: .*(denied|credentials)"):
            list(reading.read_unit(unit, corpus))


@pytest.mark.parametrize(
    "name", ["gbk2312", "utf-99", "base64", "rot13", "idna", "punycode", "undefined", ""]
)
def test_an_unknown_encoding_is_an_error_of_the_settings(name):
    with pytest.raises(ConfigError, match=r"corpus\.encoding: unknown encoding"):
        load_config(None, [f"corpus.encoding='{name}'"])


def test_spellings_of_an_encoding_mean_the_same():
    assert {CorpusSettings(encoding=name).encoding for name in ("UTF8", "utf_8", "U8")} == {"utf-8"}


@pytest.mark.parametrize(
    ("name", "data"),
    [("a.jsonl.gz", b""), ("a.txt.zst", b""), ("a.csv", b"text\n"), ("a.tsv.xz", b"id\ttext\n")],
)
def test_a_file_that_holds_nothing_is_said(tmp_path, name, data):
    path = raw.write(tmp_path / name, data)
    documents, (drop,) = raw.read(path)
    assert not documents
    assert drop[:4] == ("empty_file", f"{path}: holds no text", str(path), 0)


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".txt.gz"])
@pytest.mark.parametrize("fill", [b" \n", b"\0"])
def test_a_blank_file_of_any_size_is_counted_as_empty(tmp_path, suffix, fill):
    path = raw.write(tmp_path / f"a{suffix}", fill * 100_000)
    kept, dropped = raw.read(path, shard_megabytes=0.02)
    assert not kept
    assert [drop.reason for drop in dropped] == ["empty_file"]
    text = raw.jsonl(["今天天气很好"]) if "jsonl" in suffix else "今天天气很好".encode()
    path = raw.write(tmp_path / f"a{suffix}", fill * 100_000 + text)
    kept, dropped = raw.read(path, shard_megabytes=0.02)
    assert [document.text for document in kept] == ["今天天气很好"]
    assert not dropped


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.csv"])
@pytest.mark.parametrize("target", [16.0, 1e-4])
def test_a_tar_archive_is_no_text(tmp_path, name, target):
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        entry = tarfile.TarInfo("b.txt")
        entry.size = len(TEXTS[0].encode())
        archive.addfile(entry, io.BytesIO(TEXTS[0].encode()))
    path = raw.write(tmp_path / name, held.getvalue())
    documents, (drop,) = raw.read(path, shard_megabytes=target)
    assert not documents
    assert (drop.reason, drop.size) == ("no_text", path.stat().st_size)
    assert drop.text.startswith(f"{path}: is an archive or a document of an office program; unpack")


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl.gz"])
@pytest.mark.parametrize(
    ("begin", "kind"),
    [(b"PK\x03\x04", "an archive"), (b"PAR1", "a Parquet, Arrow or Excel"), (b"%PDF-1.7", "a PDF")],
)
def test_files_of_other_programs_are_no_text_whatever_their_name(tmp_path, name, begin, kind):
    path = raw.write(tmp_path / name, begin + bytes(range(256)) * 300)
    documents, (drop,) = raw.read(path)
    assert not documents
    assert drop.reason == "no_text"
    assert drop.text.startswith(f"{path}: is {kind}")
