"""Raw text to a corpus: each work unit becomes its shards, and the manifest is written last.

A preparation that was interrupted, in whatever way, goes on where it stopped: each finished chunk
leaves its shard and a record in `_work`. Both carry the fingerprint of inputs and settings. The
manifest is written only when the records account for every work unit.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline.corpus.dedup import heldout, marks
from pipeline.corpus.dedup.exchange import concatenate
from pipeline.corpus.first_pass import mark_duplicates, sign_heldout
from pipeline.corpus.planning import ReadPlan, absolute, plan, reads, unused_words
from pipeline.corpus.run import alarms, finished, output_folder
from pipeline.corpus.run.inputs import Inputs
from pipeline.corpus.run.output_folder import Claim
from pipeline.corpus.run.passes import Executor, run_pass
from pipeline.corpus.run.progress import WorkProgress
from pipeline.corpus.run.ray_data import run_on_cluster, run_tasks_on_cluster
from pipeline.corpus.run.tally import Tally
from pipeline.corpus.run.work import Job, make_shard
from pipeline.corpus.samples.vocabulary import SPECIALS, read_vocabulary
from pipeline.corpus.shards import format as shards
from pipeline.corpus.shards.format import Manifest
from pipeline.corpus.text.sources import EMPTY, Listing
from pipeline.errors import CorpusError, ShardError
from pipeline.files.storage import filesystem
from pipeline.progress import Progress, Say
from pipeline.settings.corpus import CorpusSettings

EMPTY_FILE = "empty_file"
UNKNOWN_LISTED = 200
"""How many unknown characters the manifest lists."""
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
    with _errors_tell_what_is_kept(folder):
        planned = plan(settings, vocab, seed, inputs)
        if not (manifest := _finished(folder, planned)):
            with output_folder.held(folder, progress.say):
                manifest = _finished(folder, planned)  # another command may have made it meanwhile
                if not manifest:
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
                    return _make(job, planned, executor, progress)
        progress.say(
            f"{folder}: up to date, {manifest.rows:,} samples in {len(manifest.shards)} shards"
        )
        # There is some if the last start was killed after it had written the manifest.
        output_folder.remove_work(folder, planned.fingerprint)
        _say_left_out(inputs.sources, progress.say)
        _say_quality(manifest, progress.say)
        return manifest


@contextlib.contextmanager
def _errors_tell_what_is_kept(folder: str) -> Iterator[None]:
    try:
        yield
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


def _make(job: Job, planned: ReadPlan, executor: Executor, progress: Progress) -> Manifest:
    settings, folder = job.settings, job.folder
    for warning in unused_words(settings):
        progress.say(f"warning: {warning}")
    claim = Claim(
        fingerprint=planned.fingerprint,
        units=len(planned.units),
        keep_rejected=settings.keep_rejected,
    )
    listed = output_folder.begin(folder, claim)
    system, root = filesystem(folder)
    clusters: dict[str, int] = {}
    if planned.heldout:
        job = sign_heldout(job, planned, executor, progress)
    if settings.dedup.compares_documents or settings.dedup.compares_lines:
        job, clusters = mark_duplicates(job, planned, executor, progress)
    work = WorkProgress(planned.units, progress, folder)
    done = run_pass(job, planned.units, planned.sources, executor, work, listed)
    # Not before: until then, the folder may hold an earlier corpus with its own report.
    if clusters and settings.dedup.compares_documents:
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
    _say_left_out(planned.sources, progress.say)
    _say_quality(manifest, progress.say)
    return manifest


def _say_left_out(sources: Listing, say: Say) -> None:
    for line in sources.left_out_lines():
        say(f"left out: {line}")


def _finished(folder: str, planned: ReadPlan) -> Manifest | None:
    """The manifest of the corpus in a folder, if it is complete and is the planned one.

    If the plan keeps dropped text, and the corpus dropped some that was not kept there, it is not
    the planned one: the text must be read again.
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
    if again := manifest.drops.get(heldout.REASON):
        say(f"{again:,} document(s) also stand in corpus.heldout and were left out")
    if near := manifest.drops.get(marks.REASONS[marks.NEAR_HELDOUT]):
        say(f"{near:,} document(s) are near duplicates of held-out ones and were left out")
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
    if manifest.masks == "none":
        share = manifest.settings["masking"]["probability"]
        say(
            f"masks were drawn for these figures, {share:.1%} of the tokens; training draws its own"
        )
    for warning in manifest.warnings:
        say(f"warning: {warning}")


def _manifest(job: Job, planned: ReadPlan, done: Tally, clusters: Mapping[str, int]) -> Manifest:
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
        near = marks.REASONS[marks.NEAR_HELDOUT]
        if drops and max(drops, key=drops.__getitem__) in (heldout.REASON, near):
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
        "masking": settings.of_shards().masking.model_dump_json(),
        "pairs": settings.pairs.model_dump_json(),
        "seed": str(seed),
        "segmenter": planned.segmenter,
    }
