"""Records stay readable whatever ended the writer."""

from pipeline import journal


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
