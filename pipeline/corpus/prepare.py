"""Raw text to a corpus: each work unit becomes its shards, and the manifest is written last.

A preparation that was interrupted, in whatever way, goes on where it stopped: each finished chunk
leaves its shard and a record in `_work`. Both carry the fingerprint of inputs and settings. The
manifest is written only when the records account for every work unit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.corpus.dedup import grouping, marks
from pipeline.corpus.dedup import heldout as heldout_documents
from pipeline.corpus.dedup.exchange import concatenate
from pipeline.corpus.planning import ReadPlan, absolute, plan, reads, unused_words
from pipeline.corpus.run import alarms, finished, output_folder
from pipeline.corpus.run.inputs import Inputs
from pipeline.corpus.run.output_folder import Claim
from pipeline.corpus.run.progress import WorkProgress
from pipeline.corpus.run.ray_data import run_on_cluster, run_tasks_on_cluster
from pipeline.corpus.run.tally import Result, Tally
from pipeline.corpus.run.work import Job, make_shard, sign_chunk
from pipeline.corpus.samples.vocabulary import SPECIALS, read_vocabulary
from pipeline.corpus.shards import format as shards
from pipeline.corpus.shards.format import Manifest
from pipeline.corpus.text.sources import EMPTY, Listing
from pipeline.corpus.text.units import Unit, plan_units
from pipeline.errors import CorpusError, ShardError
from pipeline.progress import Progress, Say
from pipeline.settings.corpus import CorpusSettings, DedupSettings
from pipeline.storage import filesystem, write_json

EMPTY_FILE = "empty_file"
UNKNOWN_LISTED = 200
"""How many unknown characters the manifest lists."""


class Executor(NamedTuple):
    """What does the work."""

    run: Callable[[Job, Sequence[Unit], int], Iterable[Result]]
    """Gives the results of units in any order; the last argument is `corpus.workers`."""
    run_tasks: Callable[..., list[Any]]
    """As `partition.RunTasks`, after the folder that the function works in."""


ON_CLUSTER = Executor(run_on_cluster, run_tasks_on_cluster)


def summary(planned: ReadPlan, output: str | Path) -> dict[str, object]:
    """The facts of a plan, for `--dry-run`."""
    state = "up to date: nothing to do" if _finished(str(output), planned) else "to do"
    return {
        **reads(planned.sources),
        "in work units": f"{len(planned.units)}, of which "
        f"{sum(unit.stream for unit in planned.units)} are streams of one shard or more",
        "segment with": planned.segmenter,
        "write": str(output),
        "state": state,
        "fingerprint": planned.fingerprint[:16],
    }


def prepare(
    settings: CorpusSettings,
    output: str | Path,
    vocab: str | Path,
    seed: int,
    inputs: Inputs,
    progress: Progress,
    executor: Executor = ON_CLUSTER,
) -> Manifest:
    """Make a corpus of shards in a folder.

    Args:
        output: folder of this node, or fsspec URL that all workers can reach. It must be new,
            empty, or hold nothing but what `prepare` wrote there.
        inputs: the signed inputs.
        executor: does the work.

    Raises:
        CorpusError: inputs that vanish, hold no text or are mostly unreadable; samples on which
            training can't work; units without a result; an output folder with files of others; a
            full disk.
        VocabularyError, ConfigError: see `plan`.
        KeyboardInterrupt: with a message that says what is kept.
    """
    folder, vocab = absolute(output), absolute(vocab)
    try:
        return _prepare(settings, folder, vocab, seed, inputs, progress, executor)
    except OSError as error:
        raise CorpusError(
            f"{error.filename or folder}: {error.strerror or error}; remove the cause and run "
            "again (finished shards are kept)"
        ) from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"{folder}: {finished.count_chunks(folder):,} finished chunks are kept; the same "
            "command goes on with the rest"
        ) from None


def _prepare(
    settings: CorpusSettings,
    folder: str,
    vocab: str,
    seed: int,
    inputs: Inputs,
    progress: Progress,
    executor: Executor,
) -> Manifest:
    planned = plan(settings, vocab, seed, inputs)
    if manifest := _finished(folder, planned):
        progress.say(
            f"{folder}: up to date, {manifest.rows:,} samples in {len(manifest.shards)} shards"
        )
        # There is some if the last start was killed after it had written the manifest.
        output_folder.remove_work(folder, planned.fingerprint)
        _say_left_out(inputs.sources, progress.say)
        _say_quality(manifest, progress.say)
        return manifest
    for warning in unused_words(settings):
        progress.say(f"warning: {warning}")
    job = Job(
        settings=settings,
        folder=folder,
        vocab=vocab,
        vocab_sha256=planned.vocab_sha256,
        seed=seed,
        fingerprint=planned.fingerprint,
        tags=_tags(settings, planned, seed),
        work=make_shard,
    )
    claim = Claim(
        fingerprint=planned.fingerprint,
        units=len(planned.units),
        keep_rejected=settings.keep_rejected,
    )
    listed = output_folder.begin(folder, claim)
    system, root = filesystem(folder)
    clusters: dict[str, int] = {}
    if planned.heldout:
        job = _sign_heldout(job, planned, executor, progress)
    if marks.wanted(settings.dedup):
        job, clusters = _deduplicate(job, planned, executor, progress)
    work = WorkProgress(planned.units, progress, folder)
    done = _run(job, planned, executor, work, listed)
    # Not before: until then, the folder may hold an earlier corpus with its own report.
    if clusters and marks.by_document(settings.dedup):
        concatenate([f"{job.marks}/{marks.REPORT}"], f"{folder}/{marks.REPORT}")
    elif system.exists(f"{root}/{marks.REPORT}"):
        system.rm_file(f"{root}/{marks.REPORT}")
    manifest = _manifest(job, planned, done, clusters)
    if missing := finished.missing_shards(folder, manifest.shards):
        raise CorpusError(
            f"{folder}: {len(missing)} of {len(manifest.shards)} shards vanished while the others "
            f"were made, such as {missing[0]}; the same command makes them again"
        )
    shards.write_manifest(folder, manifest)
    output_folder.remove_work(folder, planned.fingerprint)
    work.end(manifest)
    for place in done.unreadable_places():
        progress.say(f"unreadable: {place}")
    _say_left_out(inputs.sources, progress.say)
    _say_quality(manifest, progress.say)
    return manifest


def _say_left_out(sources: Listing, say: Say) -> None:
    for line in sources.left_out_lines():
        say(f"left out: {line}")


def _run(
    job: Job,
    planned: ReadPlan,
    executor: Executor,
    progress: WorkProgress,
    listed: Iterable[str] = (),
) -> Tally:
    """Do the work that is not finished yet; returns the sums of all results.

    Args:
        listed: see `finished.resume`.

    Raises:
        CorpusError: an error of a worker; too much of the input is bad; units without a result;
            almost all text is unknown to the vocabulary.
    """
    done, gatherer = finished.resume(
        job.folder, job.fingerprint, job.settings.keep_rejected, listed
    )
    progress.begin(done)
    todo = done.unfinished(planned.units)
    begun = {unit.number for unit in todo}
    job = job._replace(finished=frozenset(key for key in done.chunks if key[0] in begun))
    # The size of a compressed file's text is unknown until its end is read.
    known = not any(source.compression for source in planned.sources)
    total = sum(source.size for source in planned.sources) if known else math.inf
    for result in executor.run(job, todo, job.settings.workers):
        if result.error:
            raise CorpusError(result.error)
        done.add(result)
        gatherer.add(result)
        progress.add(result)
        alarms.check_unknown(done.counts["tokens"], done.counts["unknown_tokens"], ended=False)
        if done.bad_bytes > job.settings.max_bad_share * total:
            break
    done.check_bad_share(total, job.settings.max_bad_share)
    if missing := done.unfinished(planned.units):
        raise CorpusError(
            f"{job.folder}: {len(missing)} of {len(planned.units)} work units gave no complete "
            f"result, the first one of {missing[0].ranges[0].source.path}; no manifest was "
            "written; the same command goes on with them (finished shards are kept)"
        )
    return done


def _signing(job: Job, folder: str, settings: CorpusSettings) -> Job:
    """The job of a first pass, which signs documents and keeps no dropped text."""
    settings = settings.model_copy(update={"keep_rejected": ""})
    return job._replace(folder=folder, work=sign_chunk, settings=settings)


def _sign_heldout(job: Job, planned: ReadPlan, executor: Executor, progress: Progress) -> Job:
    """Hash the held-out documents; returns the job that leaves them out."""
    # Workers remember what they read from a folder, so each corpus needs a folder of its own.
    folder = f"{job.folder}/_work/heldout-{planned.fingerprint[:16]}"
    system, path = filesystem(f"{folder}/{heldout_documents.HASHES}")
    if not system.exists(path):
        units = plan_units(planned.heldout, job.settings)
        only_hashes = job.settings.model_copy(update={"dedup": DedupSettings()})
        signing = _signing(job, folder, only_hashes)
        there = planned._replace(units=units, sources=Listing(planned.heldout, []))
        work = WorkProgress(units, progress, "reading the held-out documents")
        done = _run(signing, there, executor, work)
        chunks = [finished.chunk_name(*key) for key in sorted(done.chunks)]
        heldout_documents.gather_hashes(folder, chunks)
    return job._replace(heldout=folder)


def _deduplicate(
    job: Job, planned: ReadPlan, executor: Executor, progress: Progress
) -> tuple[Job, dict[str, int]]:
    """Mark duplicates; returns the job with the marks, and counts of clusters."""
    # Workers remember what they read from a folder, so each corpus needs a folder of its own.
    folder = f"{job.folder}/_work/duplicates-{planned.fingerprint[:16]}"
    system, path = filesystem(f"{folder}/clusters.json")
    if not system.exists(path):
        signing = _signing(job, folder, job.settings)
        work = WorkProgress(planned.units, progress, "signing documents, to find duplicates")
        done = _run(signing, planned, executor, work)
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


def _finished(folder: str, planned: ReadPlan) -> Manifest | None:
    """The manifest of the corpus in a folder, if it is complete and is the planned one.

    It is not if it dropped text that the plan keeps: the text is read again then.
    """
    try:
        manifest = shards.read_manifest(folder)
    except (ShardError, NotADirectoryError):
        return None
    same = manifest.fingerprint == planned.fingerprint
    kept = planned.keep_rejected in ("", manifest.settings.get("keep_rejected"))
    same = same and (kept or not set(manifest.drops) - {EMPTY_FILE})
    return manifest if same and not finished.missing_shards(folder, manifest.shards) else None


def _say_quality(manifest: Manifest, say: Say) -> None:
    if again := manifest.drops.get(heldout_documents.REASON):
        say(f"{again:,} document(s) also stand in corpus.heldout and were left out")
    if manifest.boilerplate:
        lines = ", ".join(f"{line} ({count:,})" for line, count in manifest.boilerplate[:5])
        say(f"lines that were removed from most documents: {lines}")
    if lost := manifest.drops.get(marks.LOST):
        say(
            f"{lost:,} paragraph(s) are lost: they were removed from other documents, and the one "
            "that kept them was dropped after deduplication"
        )
    for line in alarms.lines(manifest.shares, manifest.mask_rates):
        say(line)
    for warning in manifest.warnings:
        say(f"warning: {warning}")


def _manifest(
    job: Job,
    planned: ReadPlan,
    done: Tally,
    clusters: Mapping[str, int],
) -> Manifest:
    """The manifest of a whole corpus.

    Raises:
        CorpusError: there is no sample, or training can't work on the samples.
    """
    drops = dict(sorted(done.drops.items()))
    left_out = planned.sources.left_out_by_reason()
    if empty := drops.get(EMPTY_FILE, 0) + len(left_out.get(EMPTY, ())):
        drops[EMPTY_FILE] = empty
    if not done.shards:
        cause = "check corpus.format, corpus.text_field and corpus.cleaning"
        if drops and max(drops, key=drops.__getitem__) == heldout_documents.REASON:
            cause = (
                "the documents also stand in corpus.heldout, so they are left out; name other "
                "files in corpus.inputs or in corpus.heldout"
            )
        raise CorpusError(
            f"{len(planned.sources)} file(s) gave no sample; dropped: {drops}; {cause}"
        )
    settings, vocabulary = job.settings, read_vocabulary(job.vocab)
    counts = dict(sorted(done.counts.items()))
    quality = alarms.judge_corpus(
        counts["tokens"], counts["unknown_tokens"], done.measured, settings
    )
    return Manifest(
        shards=tuple(sorted(done.shards, key=lambda info: info.name)),
        vocab_sha256=job.vocab_sha256,
        vocab_size=len(vocabulary),
        special_ids={token: vocabulary[token] for token in SPECIALS},
        sequence_length=settings.sequence_length,
        masks="static" if settings.masking.mode == "static" else "none",
        segmenter=planned.segmenter,
        counts={**counts, **clusters},
        drops=drops,
        dropped=done.dropped(),
        boilerplate=done.boilerplate(),
        left_out=left_out,
        shares=quality.shares,
        mask_rates=quality.mask_rates,
        warnings=quality.warnings,
        unknown=dict(
            sorted(done.unknown.items(), key=lambda item: (-item[1], item[0]))[:UNKNOWN_LISTED]
        ),
        settings=settings.model_dump(mode="json"),
        fingerprint=job.fingerprint,
        units=len(planned.units),
    )


def _tags(settings: CorpusSettings, planned: ReadPlan, seed: int) -> dict[str, str]:
    return {
        "vocab_sha256": planned.vocab_sha256,
        "sequence_length": str(settings.sequence_length),
        "masking": settings.masking.model_dump_json(),
        "pairs": settings.pairs.model_dump_json(),
        "seed": str(seed),
        "segmenter": planned.segmenter,
    }
