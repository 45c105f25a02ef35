"""Work units to finished chunks: each chunk is read, worked on and recorded. Runs in workers."""

import json
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from pipeline.corpus.cleaning.cleaner import Cleaner
from pipeline.corpus.dedup.heldout import without_heldout
from pipeline.corpus.dedup.marks import without_duplicates, write_signatures
from pipeline.corpus.dedup.signatures import sign
from pipeline.corpus.records import Document, Drop
from pipeline.corpus.run.finished import record
from pipeline.corpus.run.names import END, chunk_name
from pipeline.corpus.run.tally import PLACES, Result
from pipeline.corpus.samples.encoder import load_encoder
from pipeline.corpus.samples.making import make_samples
from pipeline.corpus.shards import format as shards
from pipeline.corpus.text.parsing import clean_documents, fault
from pipeline.corpus.text.reading import Chunk, End, read_unit
from pipeline.corpus.text.units import Unit
from pipeline.errors import NezhaError
from pipeline.files.storage import write_whole
from pipeline.settings.corpus import CorpusSettings

Item = Unit | Chunk | End | Result
"""What a worker gets or passes on."""
Given = TypeVar("Given", bound=Item)
T = TypeVar("T")
UNKNOWN = 1000
"""How many unknown characters of a chunk are recorded: the most frequent ones."""

SHOWN_CHARACTERS = 80
"""Characters of a drop that the manifest shows."""


class Job(NamedTuple):
    """The settings, paths and marks that all units of one preparation share."""

    settings: CorpusSettings
    folder: str
    vocab: str
    vocab_sha256: str
    seed: int
    fingerprint: str
    tags: dict[str, str]
    """Metadata for the schema of every shard."""
    work: Callable[["Job", Chunk], Result]
    """The function that is called with each chunk: `make_shard` or `sign_chunk`."""
    marks: str = ""
    """Folder of the marks of duplicates; empty if none are dropped."""
    heldout: str = ""
    """Folder of the hashes of held-out documents; empty if none are dropped."""
    finished: frozenset[tuple[int, int]] = frozenset()
    """(unit, chunk) of the chunks that are finished already."""


def unfinished_chunks(job: Job, unit: Unit) -> Iterator[Chunk | End]:
    """Read a unit: the chunks that are not finished yet, then its end."""
    for item in read_unit(unit, job.settings):
        if isinstance(item, End) or (item.unit, item.number) not in job.finished:
            yield item


def results_of(job: Job, item: Item) -> Iterator[Result]:
    """Do the work of a unit, a chunk, or the end of a unit; a result is passed on unchanged."""
    if isinstance(item, Unit):
        for each in unfinished_chunks(job, item):
            yield from results_of(job, each)
    elif isinstance(item, Chunk):
        yield job.work(job, item)
    elif isinstance(item, End):
        yield end_unit(job, item)
    else:
        yield item


def or_failure(
    job: Job, item: Given, work: Callable[[Job, Given], Iterator[T]]
) -> Iterator[T | Result]:
    """What `work` makes of an item; an error, whatever it is, becomes the last one, as a result.

    Args:
        work: `results_of` or `unfinished_chunks`.
    """
    try:
        yield from work(job, item)
    except NezhaError as error:
        yield Result(error=str(error))
    except OSError as error:
        yield Result(
            error=f"{error.filename or job.folder}: {error.strerror or error}; "
            "remove the cause and run again (finished shards are kept)"
        )
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        yield Result(
            error=f"{_place(item)}: {type(error).__name__}: {error} (in {frame.filename}, line "
            f"{frame.lineno}); if the text is not at fault, please report this; the same command "
            "goes on from here (finished shards are kept)"
        )


def _place(item: Item) -> str:
    """The input that an item comes from."""
    if isinstance(item, Unit):
        ranges = [f"{each.source.path}:{each.start}" for each in item.ranges]
    elif isinstance(item, Chunk):
        ranges = [f"{each.source.path}:{each.offset}" for each in item.blocks]
    else:
        ranges = [f"unit {item.unit}"]
    return ranges[0] + (f" … {ranges[-1]}" if len(ranges) > 1 else "")


def make_shard(job: Job, chunk: Chunk) -> Result:
    """Make the shard of a chunk. If no sample is left, there is no shard."""
    settings, name = job.settings, chunk_name(chunk.unit, chunk.number)
    cleaner = Cleaner(settings.cleaning)
    records = _training_documents(job, chunk, cleaner)
    frequent: list[tuple[str, int]] = []
    if job.marks:
        records = without_duplicates(
            records, job.marks, name, settings.dedup, cleaner.reason_to_drop, frequent
        )
    dropped: list[Drop] = []
    encoder = load_encoder(job.vocab, settings.lowercase, job.vocab_sha256)
    samples = make_samples(
        _documents(records, dropped), encoder, settings, job.seed, chunk.unit, chunk.number
    )
    shard = None
    if len(samples.pairs.documents):
        path = f"{job.folder}/shard-{name}.arrow"
        size = len(encoder.vocabulary)
        shard = shards.write_shard(path, samples.pairs, samples.masks, job.tags, size)
    changed = {f"changed_by_{step}": number for step, number in cleaner.changed.items()}
    return _end_chunk(
        job,
        chunk,
        {**samples.counts, **changed},
        dropped,
        shard=shard,
        unknown=dict(samples.unknown.most_common(UNKNOWN)),
        measured=dict(samples.measured),
        boilerplate=tuple((_beginning(line), number) for line, number in frequent),
    )


def _training_documents(job: Job, chunk: Chunk, cleaner: Cleaner) -> Iterator[Document | Drop]:
    """The cleaned documents of a chunk, without those that are held out.

    Both passes of deduplication read these: marks are found by a document's place among them, and
    a paragraph whose first document is held out stays in the next one.
    """
    records = clean_documents(chunk.blocks, job.settings.text_field, cleaner)
    return without_heldout(records, job.heldout) if job.heldout else records


def sign_chunk(job: Job, chunk: Chunk) -> Result:
    """Write the signatures of a chunk's documents: the first pass of deduplication."""
    records = _training_documents(job, chunk, Cleaner(job.settings.cleaning))
    documents = list(_documents(records, []))
    signed = sign((document.text for document in documents), job.settings.dedup)
    places = [document.place for document in documents]
    write_signatures(job.folder, chunk_name(chunk.unit, chunk.number), signed, places)
    counts = {"documents": len(places), "lines": len(signed.lines)}
    return _end_chunk(job, chunk, counts, [])


def end_unit(job: Job, end: End) -> Result:
    """Record that all chunks of a unit were read, and where reading stopped at damage."""
    places = tuple(drop.text for drop in end.damage)
    return _finish(job, end.unit, END, end.damage, chunks=end.chunks, places=places)


def _end_chunk(
    job: Job, chunk: Chunk, counts: dict[str, int], dropped: list[Drop], **made: Any
) -> Result:
    """Record the result of a chunk; `made` are further fields of it."""
    bad = [drop for drop in dropped if drop.size]
    field = job.settings.text_field
    return _finish(
        job,
        chunk.unit,
        chunk.number,
        dropped,
        counts=counts,
        bytes=sum(block.size for block in chunk.blocks),
        disk=sum(block.disk for block in chunk.blocks),
        places=tuple(f"{drop.place}: {fault(drop, field)}" for drop in bad[:PLACES]),
        **made,
    )


def _finish(job: Job, unit: int, chunk: int, dropped: Sequence[Drop], **made: Any) -> Result:
    """Keep what was dropped, if that is wanted, then record a result with these fields."""
    if job.settings.keep_rejected:
        _keep(job.settings.keep_rejected, f"{chunk_name(unit, chunk)}.jsonl", dropped)
    result = Result(
        fingerprint=job.fingerprint,
        unit=unit,
        chunk=chunk,
        drops=Counter(drop.reason for drop in dropped),
        dropped={
            drop.reason: f"{drop.place}: {_beginning(drop.text)}" for drop in reversed(dropped)
        },
        keep_rejected=job.settings.keep_rejected,
        bad_bytes=sum(drop.size for drop in dropped),
        **made,
    )
    return record(job.folder, result)


def _beginning(text: str) -> str:
    """The first characters of a text, on one line."""
    line = " ".join(text[:SHOWN_CHARACTERS].split())
    return line.encode("utf-8", "backslashreplace").decode()


def _documents(records: Iterable[Document | Drop], dropped: list[Drop]) -> Iterator[Document]:
    """The documents of a stream of records; its drops are appended to `dropped`."""
    for each in records:
        if isinstance(each, Drop):
            dropped.append(each)
        else:
            yield each


def _keep(folder: str, name: str, dropped: Iterable[Drop]) -> None:
    """Write what was dropped as JSON lines, one file for each reason."""
    by_reason: dict[str, list[str]] = {}
    for drop in dropped:
        row = json.dumps({"source": drop.place, "text": drop.text}, ensure_ascii=False)
        by_reason.setdefault(drop.reason, []).append(row + "\n")
    for reason, rows in by_reason.items():
        data = "".join(rows).encode("utf-8", "backslashreplace")
        write_whole(f"{folder}/{reason}/{name}", data)
