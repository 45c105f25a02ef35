"""Commands that prepare into one folder at the same time."""

import threading

import pytest

from pipeline.corpus.run.passes import Executor
from pipeline.corpus.shards import format as shards
from tests.pipeline.corpus.preparing import IN_PROCESS, hashes, run
from tests.reported import Lines

DEDUP = {"dedup": {"exact_documents": True, "exact_paragraphs": True}}


class Told(Lines):
    """Says when somebody waits."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = threading.Event()

    def say(self, line: str) -> None:
        super().say(line)
        if "waiting for another command" in line:
            self.waits.set()


@pytest.mark.parametrize("later", [{}, {"sequence_length": 64}])
def test_a_second_command_waits_for_the_first_one(source, vocab, tmp_path, later):
    """Then nothing is left to do, or with other settings the corpus is made again, as ever."""
    for name, changed in (("first", {}), ("second", later)):
        run(source, tmp_path / name, vocab, **DEDUP, **changed)
    out, lines = tmp_path / "out", Told()
    second = threading.Thread(
        target=lambda: run(source, out, vocab, progress=lines, **DEDUP, **later)
    )

    def start_second(job, units, workers):
        for number, result in enumerate(IN_PROCESS.run(job, units, workers)):
            if number == 1 and not second.ident:
                second.start()
                assert lines.waits.wait(60)
            yield result

    first = run(source, out, vocab, Executor(start_second, IN_PROCESS.run_tasks), **DEDUP)
    second.join(60)
    assert not second.is_alive()
    assert len(first.shards) == len(hashes(tmp_path / "first"))
    assert ("up to date" in lines[1]) == (not later)
    assert hashes(out) == hashes(tmp_path / "second")
    assert shards.read_manifest(out) == shards.read_manifest(tmp_path / "second")
    assert not list(out.glob(".*"))


def test_a_lock_that_a_killed_command_left_does_no_harm(source, vocab, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".prepare.lock").touch()
    run(source, tmp_path / "out", vocab)
    assert not list((tmp_path / "out").glob(".*"))
