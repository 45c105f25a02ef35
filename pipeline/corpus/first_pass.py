"""The passes that find what a corpus leaves out: held-out documents and duplicates.

Each pass has a folder of its own in `_work`, and does not run again if its result is there.
"""

from __future__ import annotations

import json
from functools import partial

from pipeline.corpus.dedup import grouping, heldout, marks
from pipeline.corpus.planning import ReadPlan
from pipeline.corpus.run import finished
from pipeline.corpus.run.passes import Executor, run_pass
from pipeline.corpus.run.progress import WorkProgress
from pipeline.corpus.run.work import Job, sign_chunk
from pipeline.corpus.text.units import plan_units
from pipeline.files.storage import filesystem, write_json
from pipeline.progress import Progress
from pipeline.settings.corpus import CorpusSettings, DedupSettings


def sign_heldout(job: Job, planned: ReadPlan, executor: Executor, progress: Progress) -> Job:
    """Hash the held-out documents; returns the job that leaves them out."""
    # Workers remember what they read from a folder, so each corpus needs a folder of its own.
    folder = f"{job.folder}/_work/heldout-{planned.fingerprint[:16]}"
    system, path = filesystem(f"{folder}/{heldout.HASHES}")
    if not system.exists(path):
        units = plan_units(planned.heldout, job.settings)
        only_hashes = job.settings.model_copy(update={"dedup": DedupSettings()})
        signing = _signing(job, folder, only_hashes)
        work = WorkProgress(units, progress, "reading the held-out documents")
        done = run_pass(signing, units, planned.heldout, executor, work)
        chunks = [finished.chunk_name(*key) for key in sorted(done.chunks)]
        heldout.gather_hashes(folder, chunks)
    return job._replace(heldout=folder)


def mark_duplicates(
    job: Job, planned: ReadPlan, executor: Executor, progress: Progress
) -> tuple[Job, dict[str, int]]:
    """Mark duplicates; returns the job with the marks, and counts of clusters."""
    # Workers remember what they read from a folder, so each corpus needs a folder of its own.
    folder = f"{job.folder}/_work/duplicates-{planned.fingerprint[:16]}"
    system, path = filesystem(f"{folder}/clusters.json")
    if not system.exists(path):
        signing = _signing(job, folder, job.settings)
        work = WorkProgress(planned.units, progress, "signing documents, to find duplicates")
        done = run_pass(signing, planned.units, planned.sources, executor, work)
        progress.say(f"looking for duplicates among {done.counts['documents']:,} documents")
        clusters = grouping.find_duplicates(
            folder,
            {finished.chunk_name(*key): done.chunks[key] for key in sorted(done.chunks)},
            job.settings.dedup,
            partial(executor.run_tasks, folder),
            f"{folder}/{marks.REPORT}",
            shortest=max(1, job.settings.cleaning.min_characters),
        )
        write_json(f"{folder}/clusters.json", clusters)
    return job._replace(marks=folder), json.loads(system.cat_file(path))


def _signing(job: Job, folder: str, settings: CorpusSettings) -> Job:
    """The job of a first pass, which signs documents and keeps no dropped text."""
    settings = settings.model_copy(update={"keep_rejected": ""})
    return job._replace(folder=folder, work=sign_chunk, settings=settings)
