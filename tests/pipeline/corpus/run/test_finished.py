import json

import pytest

from pipeline.corpus.run import finished
from pipeline.corpus.run.finished import count_chunks, record, resume
from pipeline.corpus.run.names import END
from pipeline.corpus.run.output_folder import Claim, begin
from pipeline.corpus.run.tally import Result, Tally


def test_records_of_other_inputs_and_of_other_versions_are_deleted(tmp_path):
    folder = str(tmp_path)
    begin(folder, Claim(fingerprint="g", units=1))
    record(folder, Result(fingerprint="f", unit=0, chunk=0))
    record(folder, Result(fingerprint="g", unit=0, chunk=1))
    older = {"fingerprint": "f", "unit": 0, "part": 2}
    (tmp_path / "_work" / "000000-0002.json").write_text(json.dumps(older))
    assert set(resume(folder, "f", "", ())[0].chunks) == {(0, 0)}
    left = {path.name for path in (tmp_path / "_work").iterdir()}
    assert left == {"000000-0000.json", "ledger"}


@pytest.mark.parametrize("killed", [False, True])
def test_gathered_records_count_once(tmp_path, monkeypatch, killed):
    monkeypatch.setattr(finished, "GATHER", 3)
    if killed:  # before the single ones are deleted
        monkeypatch.setattr(finished, "remove_files", lambda paths: None)
    folder = str(tmp_path)
    begin(folder, Claim(fingerprint="f", units=4))
    gatherer = resume(folder, "f", "", ())[1]
    for unit in range(4):
        gatherer.add(record(folder, Result(fingerprint="f", unit=unit, chunk=0, bytes=5)))
        gatherer.add(record(folder, Result(fingerprint="f", unit=unit, chunks=1)))
    monkeypatch.undo()
    names = sorted(path.name for path in (tmp_path / "_work").iterdir())
    assert [name for name in names if "finished" in name] == [
        "finished-0-2.jsonl",
        "finished-1-1.jsonl",
    ]
    tally, _ = resume(folder, "f", "", ())
    assert tally.bytes == 20
    assert tally.ends == dict.fromkeys(range(4), 1)
    assert count_chunks(folder) == 4
    assert len(list((tmp_path / "_work").glob("0*.json"))) == 2
    resume(folder, "other", "", ())
    assert {path.name for path in (tmp_path / "_work").iterdir()} == {"ledger"}


def test_the_first_unreadable_places_are_those_of_the_inputs_order():
    tally = Tally()
    for unit, chunk in ((2, 0), (1, END), (1, 0), (0, 0)):
        tally.add(Result(unit=unit, chunk=chunk, places=(f"{unit}:{chunk} a", f"{unit}:{chunk} b")))
    assert tally.unreadable_places() == ["0:0 a", "0:0 b", "1:0 a", "1:0 b", "1:-1 a"]
