import json

from pipeline.corpus.run.ledger import Result, record, resume
from pipeline.corpus.run.output_folder import Ledger, begin


def test_records_of_other_inputs_and_of_other_versions_are_deleted(tmp_path):
    folder = str(tmp_path)
    begin(folder, Ledger(fingerprint="g", units=1))
    kept = record(folder, Result(fingerprint="f", unit=0, chunk=0))
    record(folder, Result(fingerprint="g", unit=0, chunk=1))
    older = {"fingerprint": "f", "unit": 0, "part": 2}
    (tmp_path / "_work" / "000000-0002.json").write_text(json.dumps(older))
    assert resume(folder, "f") == {(0, 0): kept}
    left = {path.name for path in (tmp_path / "_work").iterdir()}
    assert left == {"000000-0000.json", "ledger"}
