"""Records stay readable whatever ended the writer."""

from pydantic import RootModel

from pipeline.files import journal


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
    assert journal.Follower(path, steps).read() == [{"step": 1}, {"step": 2}]


def test_a_file_is_read_again_only_after_it_has_changed(tmp_path, monkeypatch):
    path, reads, read = tmp_path / "metrics.jsonl", [], journal.read
    monkeypatch.setattr(journal, "read", lambda *given: reads.append(given) or read(*given))
    follower = journal.Follower(path)
    assert follower.read() == []
    for step in (1, 2):
        journal.append(path, {"step": step})
        for _ in range(3):
            assert [record["step"] for record in follower.read()] == list(range(1, step + 1))
    path.unlink()
    journal.append(path, {"step": 1})  # a resumed run rewinds its record
    assert len(follower.read()) == 1
    assert len(reads) == 3
