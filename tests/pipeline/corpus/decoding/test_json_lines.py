"""JSON that does not stand one object a line: arrays, and objects over several lines."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus.decoding.json_lines import as_lines
from tests.pipeline.corpus import raw

TEXTS = [f'第{n}篇，"引号"、[括号]、{{花括号}}、反斜杠\\、\n换行。' for n in range(9)]
ROWS = [{"id": n, "text": text, "meta": {"tags": ["a", {"b": 1}]}} for n, text in enumerate(TEXTS)]


def dumped(value, indent=None):
    return json.dumps(value, ensure_ascii=False, indent=indent)


FORMS = {
    "array": dumped(ROWS),
    "pretty array": dumped(ROWS, 2),
    "pretty objects": "\n".join(dumped(row, 2) for row in ROWS),
    "array of lines": "[\n" + ",\n".join(map(dumped, ROWS)) + "\n]",
    "two arrays": dumped(ROWS[:4]) + dumped(ROWS[4:], 1),
    "objects from line to line": "\n".join(dumped(row).replace(', "', ',\n"') for row in ROWS),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.txt", "a.json.gz"])
@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
@pytest.mark.parametrize("target", [16.0, 2e-4])
def test_objects_of_arrays_and_over_several_lines_are_records(tmp_path, form, name, codec, target):
    path = raw.write(tmp_path / name, FORMS[form].encode(codec))
    documents, dropped = raw.read(path, shard_megabytes=target)
    assert [document.text for document in documents] == TEXTS
    assert not dropped


@pytest.mark.parametrize("between", ["", " ", ",", ",\n", ", "])
@pytest.mark.parametrize("codec", ["utf-8", "gb18030", "utf-16"])
@pytest.mark.parametrize("target", [16.0, 2e-4])
def test_several_objects_of_a_line_are_records(tmp_path, between, codec, target):
    lines = [between.join(map(dumped, ROWS[:4])) + between, dumped(ROWS[4]) + "]", "", "} {}"]
    data = "\n".join(lines).encode(codec)
    documents, dropped = raw.read(raw.write(tmp_path / "a.jsonl", data), shard_megabytes=target)
    assert [document.text for document in documents] == TEXTS[:5]
    assert len({document.number for document in documents}) == 5
    assert [drop.text for drop in dropped] == ["]", "} {}"]
    if codec == "gb18030":
        for document, row in zip(documents, ROWS, strict=False):
            assert data[int(document.place.rpartition(":")[2]) :].startswith(
                dumped(row).encode(codec)
            )


def test_the_place_of_an_object_is_that_in_the_file(tmp_path):
    data = FORMS["pretty array"].encode()
    path = raw.write(tmp_path / "a.json", data)
    for number, document in enumerate(raw.read(path)[0]):
        byte = int(document.place.rpartition(":")[2])
        end = data.find(b"\n  },", byte) + 4 if number < len(ROWS) - 1 else data.rindex(b"]")
        assert json.loads(data[byte:end]) == ROWS[number]


@given(
    st.lists(st.dictionaries(st.text(), st.one_of(st.text(), st.lists(st.text()))), min_size=1),
    st.sampled_from([None, 0, 3]),
    st.integers(1, 50),
    st.booleans(),
)
def test_any_cut_of_the_stream_gives_each_object_on_its_line(rows, indent, size, ascii):
    data = json.dumps(rows, indent=indent, ensure_ascii=ascii).encode("utf-8", "surrogatepass")
    lines = b"".join(as_lines(data[i : i + size] for i in range(0, len(data), size)))
    assert len(lines) == len(data)
    kept = [line for line in lines.decode("utf-8", "surrogatepass").split("\n") if line.strip()]
    assert [json.loads(line) for line in kept] == rows


def test_what_is_broken_in_an_array_is_dropped_alone(tmp_path):
    lines = ["[", *(dumped(row) + "," for row in ROWS[:3]), "]"]
    lines[2] = '{"text": "没有结束},'
    lines.insert(3, "}, 3, [4],")
    documents, dropped = raw.read(raw.write(tmp_path / "a.json", "\n".join(lines).encode()))
    assert [document.text for document in documents] == [TEXTS[0], TEXTS[2]]
    assert [drop.text.strip() for drop in dropped] == ['{"text": "没有结束}, }', "3", "4"]


@pytest.mark.parametrize(
    "prose",
    [
        '[{"甲": 1}] 是一个例子。\n它有一项。',
        '{\n"甲": 1}\n是一个例子。',
        '{\n"甲" 是一个字。' + "很长。" * 40_000,
        "[{一}]\n" + "很长。" * 40_000,
        '[{"数": ' + "9" * 5000 + "}]",
        "[{" + '"a":[' * 5000,
    ],
)
def test_prose_that_begins_as_json_stays_prose(tmp_path, prose):
    assert raw.texts(raw.write(tmp_path / "a.txt", prose.encode())) == [prose]


def test_a_long_array_under_the_name_of_a_text(tmp_path):
    for indent in (None, 1):
        data = dumped(ROWS * 500, indent).encode()
        assert raw.texts(raw.write(tmp_path / "a.txt", data), shard_megabytes=0.1) == TEXTS * 500


def test_lines_that_are_arrays_stay_lines(tmp_path):
    lines = [dumped([{"text": "甲"}]), dumped({"text": "乙"}), '{"text": "丙']
    documents, dropped = raw.read(raw.write(tmp_path / "a.jsonl", "\n".join(lines).encode()))
    assert [document.text for document in documents] == ["乙"]
    assert [drop.text for drop in dropped] == [lines[0], lines[2]]
