"""One pass over the work units of a corpus: what is not finished yet is done."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from pipeline.corpus.run import alarms, finished
from pipeline.corpus.run.progress import WorkProgress
from pipeline.corpus.run.tally import Result, Tally
from pipeline.corpus.run.work import Job
from pipeline.corpus.text.sources import Source
from pipeline.corpus.text.units import Unit
from pipeline.errors import CorpusError


class Executor(NamedTuple):
    """Runs work units, and functions over tasks."""

    run: Callable[[Job, Sequence[Unit], int], Iterable[Result]]
    """Gives the results of units in any order; the last argument is `corpus.workers`."""
    run_tasks: Callable[..., list[Any]]
    """The arguments are the folder that a function works in, and those of `partition.RunTasks`."""


def run_pass(
    job: Job,
    units: Sequence[Unit],
    sources: Sequence[Source],
    executor: Executor,
    progress: WorkProgress,
    listed: Iterable[str] = (),
) -> Tally:
    """Do the work that is not finished yet; returns the sums of all results.

    Args:
        sources: the files that the units are cut from.
        listed: see `finished.resume`.

    Raises:
        CorpusError: an error of a worker; too much of the input is bad; units without a result;
            almost all text is unknown to the vocabulary.
    """
    done, gatherer = finished.resume(
        job.folder, job.fingerprint, job.settings.keep_rejected, listed
    )
    progress.begin(done)
    todo = done.unfinished(units)
    begun = {unit.number for unit in todo}
    job = job._replace(finished=frozenset(key for key in done.chunks if key[0] in begun))
    # The size of a compressed file's text is unknown until its end is read.
    known = not any(source.compression for source in sources)
    total = sum(source.size for source in sources) if known else math.inf
    for result in executor.run(job, todo, job.settings.workers):
        if result.error:
            raise CorpusError(result.error)
        done.add(result)
        gatherer.add(result)
        progress.update(done)
        alarms.check_unknown(done.counts["tokens"], done.counts["unknown_tokens"], ended=False)
        if done.bad_bytes > job.settings.max_bad_share * total:
            break
    done.check_bad_share(total, job.settings.max_bad_share)
    if missing := done.unfinished(units):
        raise CorpusError(
            f"{job.folder}: {len(missing)} of {len(units)} work units gave no complete "
            f"result, the first one of {missing[0].ranges[0].source.path}; no manifest was "
            "written; the same command goes on with them (finished shards are kept)"
        )
    return done
