"""Live lines on a terminal, a few plain lines elsewhere."""

import io

from jobs.output import progress
from jobs.output.console import plain_console
from jobs.output.progress import ConsoleProgress


def written(is_terminal, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    console = plain_console(file=io.StringIO(), force_terminal=is_terminal, width=60)
    shown = ConsoleProgress(console)
    shown.stage("heads")
    for second in range(61):
        now[0] = float(second)
        shown.update(f"step {second}", "ner")
        shown.update(f"step {second}", "pairs")
    shown.say("done [1]")
    shown.close()
    return console.file.getvalue()


def test_elsewhere_a_subject_gets_a_line_now_and_then(monkeypatch):
    lines = written(False, monkeypatch).splitlines()
    assert lines[0] == "── heads"
    assert lines[-1] == "   done [1]"
    steps = [
        f"   {subject}: step {second}" for second in (0, 30, 60) for subject in ("ner", "pairs")
    ]
    assert lines[1:-1] == steps


def test_a_terminal_shows_the_newest_line_of_each_subject(monkeypatch):
    shown = ConsoleProgress(plain_console(file=io.StringIO(), force_terminal=True, width=60))
    for second in range(9):
        shown.update(f"step {second}", "ner")
        shown.update(f"step {second}", "pairs")
    assert shown._status.status.plain == "ner: step 8\n  pairs: step 8"
    shown.close()
