"""Damaged files and lines are one error that names them."""

import json

import pytest

from pipeline.errors import TaskError
from pipeline.finetuning.examples.jsonl import parse_object, to_json
from pipeline.finetuning.examples.lines import read_lines
from tests.pipeline.corpus import raw
from tests.pipeline.corpus.raw import write_texts


@pytest.mark.parametrize(
    ("suffix", "cut"),
    [(".gz", True), (".bz2", True), (".xz", True), (".xz", False), (".zst", False), (".zst", True)],
)
def test_damaged_compressed_data_is_named_and_not_called_another_encoding(tmp_path, suffix, cut):
    path = raw.write(tmp_path / f"a.jsonl{suffix}", raw.jsonl(write_texts(2000)))
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(data[:middle] if cut else data[:middle] + b"\xff" * 40 + data[middle + 40 :])
    with pytest.raises(TaskError, match=rf"a\.jsonl{suffix}, after line \d+: ") as raised:
        list(read_lines(str(path)))
    assert "UTF-8" not in str(raised.value)


@pytest.mark.parametrize("encoding", ["gbk", "gb18030", "big5", "utf-16", "utf-16-le", "utf-8-sig"])
@pytest.mark.parametrize("suffix", [".txt", ".csv.gz"])
def test_lines_are_decoded_as_those_of_a_corpus(tmp_path, encoding, suffix):
    lines = ["房間很大，服務也好。", "", "下次不來了。"]
    path = raw.write(tmp_path / f"a{suffix}", "\r\n".join(lines).encode(encoding))
    assert [line for _, line in read_lines(str(path))] == lines


@pytest.mark.parametrize("padding", [1, 5000])
def test_zero_bytes_that_pad_a_file_are_no_text(tmp_path, padding):
    data = "1\t好\n".encode() + bytes(padding) + "2\t坏\n".encode() + bytes(padding)
    path = raw.write(tmp_path / "a.tsv", bytes(padding) + data)
    assert [line for _, line in read_lines(str(path))] == ["1\t好", "2\t坏", ""]


def test_strings_may_hold_control_characters():
    assert parse_object('{"text": "好\t坏\x01"}', "line 1") == {"text": "好\t坏\x01"}


@pytest.mark.parametrize("name", ["a::b.jsonl", "第 一[新].jsonl", "*#?.jsonl.zstd", "A.JSONL.GZ"])
def test_any_name_is_that_of_a_file(tmp_path, name):
    path = raw.write(tmp_path / name, "好\n坏\n".encode())
    if name.endswith(("d", "Z")):
        path.write_bytes(raw.COMPRESS[".zst" if name.endswith("d") else ".gz"](path.read_bytes()))
    assert [line for _, line in read_lines(str(path))] == ["好", "坏"]


def test_a_file_without_line_feeds_has_lines_that_end_in_carriage_returns(tmp_path):
    path = raw.write(tmp_path / "a.txt", "\ufeff好\r\r坏\r".encode())
    found = [(f"{path}, line 1", "好"), (f"{path}, line 2", ""), (f"{path}, line 3", "坏")]
    assert list(read_lines(str(path))) == found


def test_json_that_is_nested_too_deeply_is_one_error():
    with pytest.raises(TaskError, match="line 3: not JSON"):
        parse_object('{"a":' + "[" * 100_000, "line 3")


def test_a_key_that_occurs_twice_is_named():
    for line in ('{"text": "好", "label": 1, "text": "坏"}', '{"id": {"text": 1, "text": 1}}'):
        with pytest.raises(TaskError, match="line 3: key text: it occurs twice"):
            parse_object(line, "line 3")


def test_half_of_a_surrogate_pair_is_written_and_read_again():
    row = {"text": "好😀", "title": "\ud83d", "prediction": {"label": "1"}}
    text = to_json(row)
    assert text.encode("utf-8").decode("utf-8") == text
    assert json.loads(text) == row
    assert "好😀" in text


def test_numbers_that_json_does_not_have_are_written_as_null():
    assert to_json({"text": "好", "price": [float("nan"), 1e400, 2.5]}) == (
        '{"text": "好", "price": [null, null, 2.5]}\n'
    )
