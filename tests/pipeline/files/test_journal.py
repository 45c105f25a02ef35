"""Records stay readable whatever ended the writer."""

import json

import pytest
from pydantic import RootModel

from pipeline.files import journal
from pipeline.files.storage import write_whole
from tests.full_disk import largest_file


def test_a_line_that_was_cut_hides_no_other(tmp_path):
    path = tmp_path / "records.jsonl"
    assert journal.read(path) == []
    journal.append(path, {"step": 10})
    journal.append(path, {"step": 20, "text": "第二"})
    with path.open("a", encoding="utf-8") as file:
        file.write('{"step": 30, "lo')
    assert [record["step"] for record in journal.read(path)] == [10, 20]
    journal.append(path, {"step": 40})
    assert [record["step"] for record in journal.read(path)] == [10, 20, 40]
    assert path.read_text("utf-8").count("\n") == 4


def test_a_line_that_lacks_what_a_record_needs_is_none(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text('{"step": 1}\n\n[]\n{"step": null}\n{"step": 2}\n{"step": "3"}\n')
    steps = RootModel[dict[str, float]]
    assert journal.read_checked(path, steps) == ([{"step": 1}, {"step": 2}], [3, 4, 6])
    assert list(journal.Follower(path, steps).new()) == [{"step": 1}, {"step": 2}]
    assert list(journal.newest_first(path, steps)) == [{"step": 2}, {"step": 1}]


@pytest.mark.parametrize("size", [1, 7, 1 << 16])
def test_the_newest_records_are_read_from_the_end(tmp_path, monkeypatch, size):
    path = tmp_path / "records.jsonl"
    assert list(journal.newest_first(path)) == []
    journal.extend(path, [{"step": step} for step in range(30)])
    with path.open("a", encoding="utf-8") as file:
        file.write('{"step": 30, "lo')
    monkeypatch.setattr(journal, "BLOCK_BYTES", size)
    assert list(journal.newest_first(path)) == journal.read(path)[::-1]


def test_each_record_that_is_added_is_read_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    follower = journal.Follower(path)

    def steps():
        return [record["step"] for record in follower.new()]

    assert steps() == []
    journal.extend(path, [{"step": step} for step in range(100)])
    assert steps() == list(range(100))
    with path.open("a", encoding="utf-8") as file:
        file.write('{"step": 1')
    assert steps() == []  # it may be half of a line
    with path.open("a", encoding="utf-8") as file:
        file.write("00}\n")
    assert (steps(), steps()) == ([100], [])
    write_whole(path, b"")  # a resumed run rewinds its record
    assert steps() == []
    journal.extend(path, [{"step": 1}, {"step": 2}])
    assert (steps(), steps()) == ([1, 2], [])


def test_what_is_read_already_is_not_read_again(tmp_path, monkeypatch):
    """After a day of training a second did not suffice to read the whole file."""
    path, parsed, loads = tmp_path / "metrics.jsonl", [], json.loads
    follower = journal.Follower(path)
    monkeypatch.setattr(json, "loads", lambda line: parsed.append(line) or loads(line))
    for step in range(50):
        journal.append(path, {"step": step})
        assert list(follower.new()) == [{"step": step}]
    assert len(parsed) == 50


@pytest.mark.parametrize("write", [write_whole, lambda path, data: journal.append(path, {"a": 1})])
def test_an_error_of_writing_names_the_file(tmp_path, write):
    path = tmp_path / "records.jsonl"
    with largest_file(0), pytest.raises(OSError, match="File too large") as caught:
        write(path, b"data")
    assert caught.value.filename == str(path)
