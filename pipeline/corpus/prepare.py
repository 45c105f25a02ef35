"""Raw text to a corpus: each work unit becomes its shards, and the manifest is written last.

A preparation that was interrupted, in whatever way, goes on where it stopped: each finished chunk
left its shard and a record in `_work`. Both carry the fingerprint of inputs and settings.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import tokenizers

from pipeline.corpus.dedup import marks
from pipeline.corpus.run import ledger
from pipeline.corpus.run.ledger import Done, Result
from pipeline.corpus.run.progress import Progress
from pipeline.corpus.run.ray_data import run_on_cluster, spread_on_cluster
from pipeline.corpus.run.work import Job, make_shard, or_failure, results_of, sign_chunk
from pipeline.corpus.samples.segmentation import load_segmenter
from pipeline.corpus.samples.vocabulary import SPECIALS, read_vocabulary, vocabulary_sha256
from pipeline.corpus.shards import format as shards
from pipeline.corpus.shards.format import Manifest
from pipeline.corpus.text.sources import Source
from pipeline.corpus.text.units import Unit, plan_units
from pipeline.errors import CorpusError, ShardError
from pipeline.settings.corpus import CorpusSettings
from pipeline.storage import filesystem, write_whole

FORMAT = 2
"""To be raised when the same text and settings would give other shards."""
NOT_CONTENT = {
    *("inputs", "heldout", "output", "vocab", "vocab_size", "user_dictionary"),
    *("workers", "keep_rejected", "max_bad_share"),
}
"""Settings that do not change shards, or whose content is in the fingerprint already."""
UNKNOWN_LISTED = 200
"""How many unknown characters the manifest lists."""


class Executor(NamedTuple):
    """What does the work."""

    run: Callable[[Job, Sequence[Unit], int], Iterable[Result]]
    """Gives the results of units in any order; the last argument is `corpus.workers`."""
    spread: marks.Spread


def _one_by_one(job: Job, units: Sequence[Unit], workers: int) -> Iterator[Result]:
    for unit in units:
        yield from or_failure(job, results_of(job, unit))


IN_PROCESS = Executor(_one_by_one, lambda function, each: [function(*one) for one in each])
ON_CLUSTER = Executor(run_on_cluster, spread_on_cluster)


class Plan(NamedTuple):
    """What a preparation would read and do."""

    sources: Sequence[Source]
    units: list[Unit]
    fingerprint: str
    vocab_sha256: str
    segmenter: str


def plan(settings: CorpusSettings, vocab: str | Path, seed: int, sources: Sequence[Source]) -> Plan:
    """Cut the signed inputs into units and compute the fingerprint; writes nothing.

    Raises:
        CorpusError: an input that can't be cut, such as a damaged Parquet file.
        VocabularyError: see `read_vocabulary`.
        ConfigError: an unknown segmenter.
    """
    segmenter = load_segmenter(settings.segmenter, settings.user_dictionary).identity
    vocab_sha256 = vocabulary_sha256(vocab)
    made_from = {
        "format": FORMAT,
        "seed": seed,
        "vocab": vocab_sha256,
        "segmenter": segmenter,
        "tokenizers": tokenizers.__version__,
        "sources": [(source.name, source.format, source.signature) for source in sources],
        "settings": settings.model_dump(mode="json", exclude=NOT_CONTENT),
    }
    digest = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
    return Plan(sources, plan_units(sources, settings), digest, vocab_sha256, segmenter)


def summary(planned: Plan, output: str | Path) -> dict[str, object]:
    """The facts of a plan, for `--dry-run`."""
    state = "up to date: nothing to do" if _finished(str(output), planned.fingerprint) else "to do"
    return {
        "read": amount(planned.sources),
        "in work units": f"{len(planned.units)}, of which "
        f"{sum(unit.stream for unit in planned.units)} are streams of one shard or more",
        "segment with": planned.segmenter,
        "write": str(output),
        "state": state,
        "fingerprint": planned.fingerprint[:16],
    }


def amount(sources: Sequence[Source]) -> str:
    """How many files and megabytes."""
    return f"{len(sources)} file(s), {sum(source.size for source in sources) / 1e6:,.1f} MB"


def prepare(
    settings: CorpusSettings,
    output: str | Path,
    vocab: str | Path,
    seed: int,
    sources: Sequence[Source],
    show: Callable[[str], None] = print,
    executor: Executor = ON_CLUSTER,
) -> Manifest:
    """Make a corpus of shards in a folder.

    Args:
        output: folder or fsspec URL that all workers can reach.
        sources: the signed inputs.
        show: receives lines of progress.
        executor: does the work: `ON_CLUSTER`, or `IN_PROCESS`, which does not need Ray.

    Raises:
        CorpusError: inputs that vanish, hold no text or are mostly unreadable; a full disk.
        VocabularyError, ConfigError: see `plan`.
    """
    folder, vocab = absolute(output), absolute(vocab)
    planned = plan(settings, vocab, seed, sources)
    if manifest := _finished(folder, planned.fingerprint):
        show(f"{folder}: up to date, {manifest.rows:,} samples in {len(manifest.shards)} shards")
        return manifest
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
    system, root = filesystem(folder)
    clusters: dict[str, int] = {}
    if marks.wanted(settings.dedup):
        job, clusters = _deduplicate(job, planned, executor, show)
    elif system.exists(f"{root}/{marks.REPORT}"):
        system.rm_file(f"{root}/{marks.REPORT}")
    progress = Progress(planned.units, show)
    done = _run(job, planned, executor, progress)
    manifest = _manifest(job, planned, done, clusters)
    shards.write_manifest(folder, manifest)
    system.rm(f"{root}/_work", recursive=True)
    progress.end(manifest)
    for place in ledger.unreadable_places(done):
        show(f"unreadable: {place}")
    return manifest


def absolute(path: str | Path) -> str:
    """A path that workers understand, whose working directory differs; a URL is not changed."""
    return str(path).rstrip("/") if "://" in str(path) else os.path.abspath(path)


def _run(job: Job, planned: Plan, executor: Executor, progress: Progress) -> Done:
    """Do the work that is not finished yet; returns all results."""
    done = ledger.resume(job.folder, planned.fingerprint)
    progress.begin(job.folder, done)
    todo = ledger.unfinished_units(planned.units, done)
    job = job._replace(finished=frozenset(key for key in done if key[1] != ledger.END))
    # The size of a compressed file's text is unknown until its end is read.
    known = not any(source.compression for source in planned.sources)
    total = sum(source.size for source in planned.sources) if known else math.inf
    bad_bytes = sum(result.bad_bytes for result in done.values())
    for result in executor.run(job, todo, job.settings.workers):
        if result.error:
            raise CorpusError(result.error)
        done[result.unit, result.chunk] = result
        progress.add(result)
        bad_bytes += result.bad_bytes
        if bad_bytes > job.settings.max_bad_share * total:
            break
    ledger.check_bad_share(done, total, job.settings.max_bad_share)
    return done


def _deduplicate(
    job: Job, planned: Plan, executor: Executor, show: Callable[[str], None]
) -> tuple[Job, dict[str, int]]:
    """Mark duplicates; returns the job with the marks, and counts of clusters."""
    # Workers remember what they read from a folder, so each corpus needs a folder of its own.
    folder = f"{job.folder}/_work/duplicates-{planned.fingerprint[:16]}"
    system, path = filesystem(f"{folder}/clusters.json")
    if not system.exists(path):
        show("looking for duplicates")
        signing = job._replace(folder=folder, work=sign_chunk)
        done = _run(signing, planned, executor, Progress(planned.units, show))
        documents = {
            ledger.chunk_name(unit, chunk): done[unit, chunk].counts["documents"]
            for unit, chunk in sorted(done)
            if chunk != ledger.END
        }
        clusters = marks.find_duplicates(
            folder, documents, job.settings.dedup, executor.spread, f"{job.folder}/{marks.REPORT}"
        )
        write_whole(f"{folder}/clusters.json", json.dumps(clusters).encode())
    return job._replace(marks=folder), json.loads(system.cat_file(path))


def _finished(folder: str, fingerprint: str) -> Manifest | None:
    """The manifest of the corpus in a folder, if it is complete and has this fingerprint."""
    try:
        manifest = shards.read_manifest(folder)
    except ShardError:
        return None
    same = manifest.fingerprint == fingerprint
    return manifest if same and ledger.shards_exist(folder, manifest.shards) else None


def _manifest(job: Job, planned: Plan, done: Done, clusters: Mapping[str, int]) -> Manifest:
    drops = ledger.totals(done, "drops")
    if empty := sum(source.size == 0 for source in planned.sources):
        drops["empty_file"] = empty
    infos = [result.shard for result in done.values() if result.shard]
    if not infos:
        raise CorpusError(
            f"{len(planned.sources)} file(s) gave no sample; dropped: {drops}; check "
            "corpus.format, corpus.text_field and corpus.cleaning"
        )
    settings, vocabulary = job.settings, read_vocabulary(job.vocab)
    return Manifest(
        shards=tuple(sorted(infos, key=lambda info: info.name)),
        vocab_sha256=job.vocab_sha256,
        vocab_size=len(vocabulary),
        special_ids={token: vocabulary[token] for token in SPECIALS},
        sequence_length=settings.sequence_length,
        masks="static" if settings.masking.mode == "static" else "none",
        segmenter=planned.segmenter,
        counts={**ledger.totals(done, "counts"), **clusters},
        drops=drops,
        unknown=dict(Counter(ledger.totals(done, "unknown")).most_common(UNKNOWN_LISTED)),
        settings=settings.model_dump(mode="json"),
        fingerprint=job.fingerprint,
    )


def _tags(settings: CorpusSettings, planned: Plan, seed: int) -> dict[str, str]:
    return {
        "vocab_sha256": planned.vocab_sha256,
        "sequence_length": str(settings.sequence_length),
        "masking": settings.masking.model_dump_json(),
        "pairs": settings.pairs.model_dump_json(),
        "seed": str(seed),
        "segmenter": planned.segmenter,
    }
