import json

from pipeline.corpus.run.ledger import Result, record, resume


def test_records_of_other_inputs_and_of_other_versions_are_deleted(tmp_path):
    folder = str(tmp_path)
    kept = record(folder, Result(fingerprint="f", unit=0, chunk=0))
    record(folder, Result(fingerprint="g", unit=0, chunk=1))
    older = {"fingerprint": "f", "unit": 0, "part": 2}
    (tmp_path / "_work" / "000000-0002.json").write_text(json.dumps(older))
    assert resume(folder, "f") == {(0, 0): kept}
    assert [path.name for path in (tmp_path / "_work").iterdir()] == ["000000-0000.json"]
