"""Records stay readable whatever ended the writer."""

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


def test_a_file_is_read_again_only_after_it_has_changed(tmp_path, monkeypatch):
    path, reads, read = tmp_path / "metrics.jsonl", [], journal.read
    monkeypatch.setattr(journal, "read", lambda path: reads.append(path) or read(path))
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
