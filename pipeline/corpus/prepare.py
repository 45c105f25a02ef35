"""Raw text to a corpus: work units through Ray Data, each to its shard, the manifest last.

A run that was stopped, in whatever way, goes on where it stopped: finished chunks left their shard
and a note in `_work`. Both are bound to the fingerprint of inputs and settings.
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

from pipeline.corpus.dedup import clusters as dedup
from pipeline.corpus.run import ledger as results
from pipeline.corpus.run.ledger import Done, Result
from pipeline.corpus.run.progress import Progress
from pipeline.corpus.run.ray_data import run_on_cluster, spread_on_cluster
from pipeline.corpus.run.units import Job, make_shard, run_unit, sign_chunk
from pipeline.corpus.samples import vocabulary as wordpiece
from pipeline.corpus.samples.segmentation import load_segmenter
from pipeline.corpus.shards import format as shards
from pipeline.corpus.shards.format import Manifest
from pipeline.corpus.text.sources import Source, Unit, list_sources, plan_units
from pipeline.errors import CorpusError, ShardError
from pipeline.settings.corpus import CorpusSettings
from pipeline.storage import filesystem, write_whole

FORMAT = 1
"""Raised when the same text and settings would give other shards."""
NOT_CONTENT = {
    *("inputs", "heldout", "output", "vocab", "vocab_size", "user_dictionary"),
    *("workers", "keep_rejected", "max_bad_share"),
}
"""Settings that shards do not depend on; inputs, vocabulary, dictionary count by their content."""


UNKNOWN_LISTED = 200
"""Unknown characters in the manifest."""


class Executor(NamedTuple):
    """What does the work."""

    run: Callable[[Job, Sequence[Unit], int], Iterable[Result]]
    """Results of units, with so many workers (0: one for each CPU), in any order."""
    spread: dedup.Spread


def _one_by_one(job: Job, units: Sequence[Unit], workers: int) -> Iterator[Result]:
    for unit in units:
        yield from run_unit(job, unit)


IN_PROCESS = Executor(_one_by_one, lambda function, each: [function(*one) for one in each])
ON_CLUSTER = Executor(run_on_cluster, spread_on_cluster)


class Plan(NamedTuple):
    """What a run would read and do."""

    sources: list[Source]
    units: list[Unit]
    fingerprint: str
    segmenter: str


def plan(settings: CorpusSettings, vocab: str | Path, seed: int, inputs: Sequence[str]) -> Plan:
    """List the inputs, cut them into units and fingerprint them; reads no text, writes nothing.

    Raises:
        CorpusError: inputs that are missing or of unknown kind.
        VocabularyError: see `read_vocabulary`.
        ConfigError: an unknown segmenter.
    """
    sources = list_sources(inputs, settings)
    segmenter = load_segmenter(settings.segmenter, settings.user_dictionary).identity
    made_from = {
        "format": FORMAT,
        "seed": seed,
        "vocab": wordpiece.vocabulary_sha256(vocab),
        "segmenter": segmenter,
        "tokenizers": tokenizers.__version__,
        "sources": [(source.name, source.format, source.signature) for source in sources],
        "settings": settings.model_dump(mode="json", exclude=NOT_CONTENT),
    }
    digest = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
    return Plan(sources, plan_units(sources, settings), digest, segmenter)


def summary(planned: Plan, output: str | Path) -> dict[str, object]:
    """A plan in words, for `--dry-run`."""
    state = "up to date: nothing to do" if _finished(str(output), planned.fingerprint) else "to do"
    return {
        "read": _amount(planned.sources),
        "in work units": f"{len(planned.units)}, of which "
        f"{sum(unit.stream for unit in planned.units)} are streams of one shard or more",
        "segment with": planned.segmenter,
        "write": str(output),
        "state": state,
        "fingerprint": planned.fingerprint[:16],
    }


def reading(settings: CorpusSettings, inputs: Sequence[str]) -> dict[str, object]:
    """What would be read, when there is no vocabulary to plan with yet.

    Raises:
        CorpusError: inputs that are missing or of unknown kind.
    """
    return {"read": _amount(list_sources(inputs, settings))}


def _amount(sources: Sequence[Source]) -> str:
    return f"{len(sources)} file(s), {sum(source.size for source in sources) / 1e6:,.1f} MB"


def prepare(
    settings: CorpusSettings,
    output: str | Path,
    vocab: str | Path,
    seed: int,
    inputs: Sequence[str] = (),
    show: Callable[[str], None] = print,
    executor: Executor = ON_CLUSTER,
) -> Manifest:
    """Make a corpus of shards from the inputs (`settings.inputs` by default) in a folder.

    Args:
        output: folder or fsspec URL that all workers see.
        show: takes lines of progress.
        executor: runs the units: `ON_CLUSTER` by default, or `IN_PROCESS`, which needs no Ray.

    Raises:
        CorpusError: inputs that are missing, empty or mostly garbage; a full disk.
    """
    folder, vocab = absolute(output), absolute(vocab)
    planned = plan(settings, vocab, seed, inputs or settings.inputs)
    if manifest := _finished(folder, planned.fingerprint):
        show(f"{folder}: up to date, {manifest.rows:,} samples in {len(manifest.shards)} shards")
        return manifest
    job = Job(
        settings=settings,
        folder=folder,
        vocab=vocab,
        seed=seed,
        fingerprint=planned.fingerprint,
        tags=_tags(settings, planned, vocab, seed),
        work=make_shard,
    )
    system, root = filesystem(folder)
    clusters: dict[str, int] = {}
    if dedup.wanted(settings.dedup):
        job, clusters = _deduplicate(job, planned, executor, show)
    elif system.exists(f"{root}/{dedup.REPORT}"):
        system.rm_file(f"{root}/{dedup.REPORT}")
    progress = Progress(planned.units, show)
    done = _run(job, planned, executor, progress)
    manifest = _manifest(settings, planned, vocab, done, clusters)
    shards.write_manifest(folder, manifest)
    system.rm(f"{root}/_work", recursive=True)
    progress.end(manifest)
    for place in results.unreadable_places(done):
        show(f"unreadable: {place}")
    return manifest


def absolute(path: str | Path) -> str:
    """A path that workers, whose working directory is another one, understand; URLs stay."""
    return str(path).rstrip("/") if "://" in str(path) else os.path.abspath(path)


def _run(job: Job, planned: Plan, executor: Executor, progress: Progress) -> Done:
    """Do what is not done yet."""
    done = results.take_up(job.folder, planned.fingerprint)
    progress.begin(job.folder, done)
    todo = results.unfinished(planned.units, done)
    job = job._replace(finished=frozenset(key for key in done if key[1] != results.END))
    # Of compressed files nobody knows the size before the end.
    known = not any(source.compression for source in planned.sources)
    total = sum(source.size for source in planned.sources) if known else math.inf
    bad_bytes = sum(result.bad_bytes for result in done.values())
    for result in executor.run(job, todo, job.settings.workers):
        if result.error:
            raise CorpusError(result.error)
        done[result.unit, result.part] = result
        progress.add(result)
        bad_bytes += result.bad_bytes
        if bad_bytes > job.settings.max_bad_share * total:
            break
    results.refuse_garbage(done, total, job.settings.max_bad_share)
    return done


def _deduplicate(
    job: Job, planned: Plan, executor: Executor, show: Callable[[str], None]
) -> tuple[Job, dict[str, int]]:
    """The job with the marks of duplicates, and counts of their clusters."""
    # Workers remember what they read of a folder, so another corpus must have another one.
    folder = f"{job.folder}/_work/duplicates-{planned.fingerprint[:16]}"
    system, path = filesystem(f"{folder}/clusters.json")
    if not system.exists(path):
        show("looking for duplicates")
        signing = job._replace(folder=folder, work=sign_chunk)
        done = _run(signing, planned, executor, Progress(planned.units, show))
        chunks = {
            results.part_name(unit, part): done[unit, part].counts["documents"]
            for unit, part in sorted(done)
            if part != results.END
        }
        report = f"{job.folder}/{dedup.REPORT}"
        clusters = dedup.find_duplicates(
            folder, chunks, job.settings.dedup, executor.spread, report
        )
        write_whole(f"{folder}/clusters.json", json.dumps(clusters).encode())
    return job._replace(marks=folder), json.loads(system.cat_file(path))


def _finished(folder: str, fingerprint: str) -> Manifest | None:
    """The manifest of a corpus that is whole and of this fingerprint."""
    try:
        manifest = shards.read_manifest(folder)
    except ShardError:
        return None
    same = manifest.fingerprint == fingerprint
    return manifest if same and results.are_there(folder, manifest.shards) else None


def _manifest(
    settings: CorpusSettings,
    planned: Plan,
    vocab: str,
    done: Done,
    clusters: Mapping[str, int],
) -> Manifest:
    drops = results.totals(done, "drops")
    if empty := sum(source.size == 0 for source in planned.sources):
        drops["empty_file"] = empty
    infos = [result.shard for result in done.values() if result.shard]
    if not infos:
        raise CorpusError(
            f"no sample was left of {len(planned.sources)} file(s); dropped: {drops}; check "
            "corpus.format, corpus.text_field and corpus.cleaning"
        )
    vocabulary = wordpiece.read_vocabulary(vocab)
    return Manifest(
        shards=tuple(sorted(infos, key=lambda info: info.name)),
        vocab_sha256=wordpiece.vocabulary_sha256(vocab),
        vocab_size=len(vocabulary),
        special_ids={token: vocabulary[token] for token in wordpiece.SPECIALS},
        sequence_length=settings.sequence_length,
        masks="static" if settings.masking.mode == "static" else "none",
        segmenter=planned.segmenter,
        counts={**results.totals(done, "counts"), **clusters},
        drops=drops,
        unknown=dict(Counter(results.totals(done, "unknown")).most_common(UNKNOWN_LISTED)),
        settings=settings.model_dump(mode="json"),
        fingerprint=planned.fingerprint,
    )


def _tags(settings: CorpusSettings, planned: Plan, vocab: str | Path, seed: int) -> dict[str, str]:
    return {
        "vocab_sha256": wordpiece.vocabulary_sha256(vocab),
        "sequence_length": str(settings.sequence_length),
        "masking": settings.masking.model_dump_json(),
        "pairs": settings.pairs.model_dump_json(),
        "seed": str(seed),
        "segmenter": planned.segmenter,
    }
