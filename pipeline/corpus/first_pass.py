"""The passes that find what a corpus leaves out: held-out documents and duplicates.

Each pass has a folder of its own in `_work`, and does not run again if its result is there.
"""

import json
from functools import partial

from pipeline.corpus.dedup import grouping, heldout
from pipeline.corpus.planning import ReadPlan
from pipeline.corpus.run.names import WORK, chunk_name
from pipeline.corpus.run.passes import Executor, run_pass
from pipeline.corpus.run.progress import WorkProgress
from pipeline.corpus.run.tally import Tally
from pipeline.corpus.run.work import Job, sign_chunk
from pipeline.corpus.text.units import plan_units
from pipeline.files.storage import filesystem, write_json
from pipeline.progress import Progress
from pipeline.settings.corpus import CorpusSettings

_SIZES = "sizes.json"


def sign_heldout(job: Job, planned: ReadPlan, executor: Executor, progress: Progress) -> Job:
    """Sign the held-out documents; returns the job that leaves them out."""
    # Workers remember what they read from a folder, so each corpus needs a folder of its own.
    folder = f"{job.folder}/{WORK}/heldout-{planned.fingerprint[:16]}"
    system, path = filesystem(f"{folder}/{heldout.HASHES}")
    if not system.exists(path):
        units = plan_units(planned.heldout, job.settings)
        # Their lines may stand in the training text.
        no_lines = {"exact_paragraphs": False, "boilerplate_documents": 0}
        dedup = job.settings.dedup.model_copy(update=no_lines)
        signing = _signing(job, folder, job.settings.model_copy(update={"dedup": dedup}))
        work = WorkProgress(units, progress, "reading the held-out documents")
        done = run_pass(signing, units, planned.heldout, executor, work)
        sizes = _sizes(done)
        write_json(f"{folder}/{_SIZES}", sizes)
        heldout.gather_hashes(folder, list(sizes))
    return job._replace(heldout=folder)


def mark_duplicates(
    job: Job, planned: ReadPlan, executor: Executor, progress: Progress
) -> tuple[Job, dict[str, int]]:
    """Mark duplicates; returns the job with the marks, and counts of clusters."""
    # Workers remember what they read from a folder, so each corpus needs a folder of its own.
    folder = f"{job.folder}/{WORK}/duplicates-{planned.fingerprint[:16]}"
    system, path = filesystem(f"{folder}/clusters.json")
    if not system.exists(path):
        signing = _signing(job, folder, job.settings)
        work = WorkProgress(planned.units, progress, "signing documents, to find duplicates")
        done = run_pass(signing, planned.units, planned.sources, executor, work)
        progress.say(f"looking for duplicates among {done.counts['documents']:,} documents")
        heldout_sizes = _heldout_sizes(job)
        clusters = grouping.find_duplicates(
            folder,
            heldout_sizes | _sizes(done),
            job.settings.dedup,
            partial(executor.run_tasks, folder),
            shortest=max(1, job.settings.cleaning.min_characters),
            heldout=sum(documents for documents, _ in heldout_sizes.values()),
        )
        write_json(f"{folder}/clusters.json", clusters)
    return job._replace(marks=folder), json.loads(system.cat_file(path))


def _sizes(done: Tally) -> dict[str, tuple[int, int]]:
    """Documents and compared lines of each chunk, by name, in the order of the inputs."""
    return {chunk_name(*key): done.chunks[key] for key in sorted(done.chunks)}


def _heldout_sizes(job: Job) -> dict[str, tuple[int, int]]:
    """The chunks of held-out documents that near duplicates are compared with.

    They come before the training text, so a training document is never kept in their place.
    """
    if not (job.heldout and job.settings.dedup.near_documents):
        return {}
    system, path = filesystem(f"{job.heldout}/{_SIZES}")
    beside = f"../{job.heldout.rpartition('/')[2]}"
    return {f"{beside}/{name}": size for name, size in json.loads(system.cat_file(path)).items()}


def _signing(job: Job, folder: str, settings: CorpusSettings) -> Job:
    """The job of a first pass, which signs documents and keeps no dropped text."""
    settings = settings.model_copy(update={"keep_rejected": ""})
    return job._replace(folder=folder, work=sign_chunk, settings=settings)
