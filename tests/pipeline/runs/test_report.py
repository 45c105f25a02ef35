"""One page shows a run's curves with what happened to it, whatever its records hold."""

import json
import re
import time

import pytest

from jobs import report
from jobs.command import main
from pipeline.errors import TrainingError
from pipeline.files import journal
from pipeline.runs.listing import list_runs
from pipeline.runs.report import write_report
from pipeline.stages import pretraining
from pipeline.training.faults import events
from pipeline.training.measure import history, step_log


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    step_log.begin(folder)
    for number, step in enumerate((0, 4), 1):
        facts = {"attempt": number, "batches_skipped": 0, "workers": 2, "data": {}}
        events.record(folder, "start", f"from step {step}", step=step, **facts)
        log = step_log.StepLog(folder, number)
        for done in range(step + 1, step + 6):
            time.sleep(1e-3)  # a cause that took no time is not shown
            log.lap("step")
            log.add(done, done - 1, 16, 0, True)
        log.close()
    events.record(folder, "skipped", "step 7 <b>was</b> skipped", step=7)
    for step in range(1, 10):
        record = {"step": step, "loss": 9.0 / step, "tokens_per_second": 100.0}
        journal.append(folder / history.FILE, record)
    return folder


def test_the_page_needs_no_other_file_and_marks_what_happened(run, capsys):
    for name in (events.FILE, history.FILE, step_log.FILE):
        journal.append(run / name, {})  # what a record needs is missing
    assert main(report.VERB, [str(run)]) == 0
    path = run / "report.html"
    assert str(path) in capsys.readouterr().out.replace("\n", "")
    page = path.read_text("utf-8")
    assert "9 steps, 2 start(s) of the workers" in page
    assert re.search(r"training\s*<td", page)
    assert "repeated steps" in page
    for label in ("restart", "skipped", "held out"):
        assert (f"<!-- {label} -->" in page) == (label != "held out")
    assert "<b>was</b>" not in page  # a text is no markup
    assert not re.search(r"(src|href)=[\"'](?!#)", page)


@pytest.mark.parametrize("wrong", [None, "7", [], {}])
def test_a_value_of_another_type_hides_a_line_and_ends_no_command(run, wrong):
    """It ended jobs.report and jobs.runs with a traceback."""
    for name in (events.FILE, history.FILE, step_log.FILE):
        line = journal.read(run / name)[-1]
        for key in line:
            if type(line[key]) is not type(wrong):
                journal.append(run / name, line | {key: wrong})
        for key in line:
            journal.append(run / name, {k: v for k, v in line.items() if k != key})
    (run / "lock.json").write_text(json.dumps(wrong))
    assert "9 steps, 2 start(s) of the workers" in write_report(run).read_text("utf-8")
    assert list_runs(run.parent)[0].step == 9


def test_a_folder_without_records_is_no_run(tmp_path):
    with pytest.raises(TrainingError, match="no records of a training"):
        write_report(tmp_path)


def test_a_report_that_fails_ends_no_run(tmp_path):
    said = []
    assert pretraining.drawn(lambda: [write_report(tmp_path)], said.append) == []
    assert "no records of a training" in said[0]
