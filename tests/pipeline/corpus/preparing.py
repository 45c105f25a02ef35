"""Preparing small corpora in this process, for tests."""

import hashlib
from pathlib import Path

from pipeline.corpus import prepare
from pipeline.corpus.run.inputs import list_inputs
from pipeline.corpus.run.passes import Executor
from pipeline.corpus.run.tally import Result
from pipeline.corpus.run.work import or_failure, results_of
from pipeline.settings.corpus import CorpusSettings
from tests.reported import reported

IN_PROCESS = Executor(
    run=lambda job, units, workers: (
        result for unit in units for result in or_failure(job, unit, results_of)
    ),
    run_tasks=lambda folder, function, arguments: [function(*each) for each in arguments],
)
SMALL = {"shard_megabytes": 0.01, "sequence_length": 48}


def run(source, folder, vocab, executor=IN_PROCESS, progress=None, **settings):
    corpus = CorpusSettings(**{"inputs": (str(source),), **SMALL, **settings})
    inputs = list_inputs(corpus)
    return prepare.prepare(corpus, folder, vocab, 42, inputs, reported(progress), executor)


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.arrow")
    }


def counting(stop_after: int | None = None) -> tuple[Executor, list[Result]]:
    """An executor that records results, and can stop as a killed driver does."""
    done: list[Result] = []

    def work(job, units, workers):
        for result in IN_PROCESS.run(job, units, workers):
            done.append(result)
            yield result
            if stop_after is not None and len(done) >= stop_after:
                raise KeyboardInterrupt

    return Executor(work, IN_PROCESS.run_tasks), done
