"""One chunk of text to one shard: clean, segment, encode, pair, mask, write. Runs in workers."""

from __future__ import annotations

import functools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from pipeline.corpus.columns import key_of, offsets_of
from pipeline.corpus.dedup import clusters as dedup
from pipeline.corpus.records import Document, Drop, Masks, Pairs, Sentences
from pipeline.corpus.run.ledger import END, PLACES, Result, note, part_name
from pipeline.corpus.samples import masks as masking
from pipeline.corpus.samples import pairs
from pipeline.corpus.samples import vocabulary as wordpiece
from pipeline.corpus.samples.encoder import Encoder
from pipeline.corpus.samples.segmentation import load_segmenter, word_boundaries
from pipeline.corpus.samples.sentences import sentence_ends
from pipeline.corpus.shards import format as shards
from pipeline.corpus.shards.format import ShardInfo
from pipeline.corpus.text.cleaning import Cleaner
from pipeline.corpus.text.parsing import documents
from pipeline.corpus.text.reading import Chunk, End, read_unit
from pipeline.corpus.text.sources import Unit
from pipeline.errors import NezhaError
from pipeline.settings.corpus import CorpusSettings
from pipeline.storage import write_whole

BLOCK_CHARACTERS = 1 << 18
"""Characters that are segmented and encoded at a time: small enough for the processor's cache."""
UNKNOWN = 1000
"""Unknown characters that are noted of a chunk, the most frequent ones."""
PAIRS, MASKS = 1, 2
"""What tells the seeds of pairs and masks apart."""


class Job(NamedTuple):
    """What all units of a run share."""

    settings: CorpusSettings
    folder: str
    vocab: str
    seed: int
    fingerprint: str
    tags: dict[str, str]
    """Metadata of every shard's schema"""
    work: Callable[[Job, Chunk], Result]
    """Makes something of a chunk: `make_shard` or `sign_chunk`"""
    marks: str = ""
    """Folder of the marks of duplicates"""
    finished: frozenset[tuple[int, int]] = frozenset()
    """(unit, part) of chunks whose shards a run before this one committed"""


def run_unit(job: Job, unit: Unit) -> Iterator[Result]:
    """All chunks of a unit, then its end; an error that stops the run is a result as well."""
    try:
        for item in read_unit(unit, job.settings):
            if isinstance(item, End):
                yield end_unit(job, item)
            elif (item.unit, item.part) not in job.finished:
                yield job.work(job, item)
    except (NezhaError, OSError) as error:
        yield failure(error, job)


def failure(error: Exception, job: Job) -> Result:
    """An error in a worker, as the user should read it."""
    text = str(error)
    if isinstance(error, OSError):
        text = f"{error.filename or job.folder}: {error.strerror or error}; finished parts are kept"
        text += ": mend the cause and run again"
    return Result(error=text)


def make_shard(job: Job, chunk: Chunk) -> Result:
    """Make the shard of a chunk; a chunk of which nothing is left has none."""
    settings, name = job.settings, part_name(chunk.unit, chunk.part)
    counts: Counter[str] = Counter()
    dropped: list[Drop] = []
    stream = _clean(job, chunk, counts, dropped)
    if job.marks:
        stream = dedup.without_duplicates(stream, job.marks, name, dropped)
    sentences = _sentences(stream, job, counts)
    vocabulary = _vocabulary(job.vocab, job.tags["vocab_sha256"])
    samples = pairs.build_pairs(
        sentences,
        settings.pairs,
        settings.sequence_length,
        vocabulary["[CLS]"],
        vocabulary["[SEP]"],
        int(key_of(job.seed, PAIRS, chunk.unit, chunk.part)),
    )
    counts["truncated_tokens"] = pairs.truncated_tokens(sentences, samples, settings.pairs)
    counts["samples"] = len(samples.documents)
    if settings.pairs.task == "nsp" and len(np.unique(sentences.documents)) == 1:
        counts["documents_without_partner"] = 1
    info = None
    if len(samples.documents):
        path, masks = f"{job.folder}/shard-{name}.arrow", _masks(job, chunk, samples)
        info = shards.write_shard(path, samples, masks, job.tags, len(vocabulary))
    if settings.keep_rejected:
        _keep(settings.keep_rejected, f"{name}.jsonl", dropped)
    encoder = _encoder(job.vocab, settings.lowercase, job.tags["vocab_sha256"])
    unknown = dict(encoder.take_unknown().most_common(UNKNOWN))
    return _finish(job, chunk, counts, dropped, info, unknown)


def sign_chunk(job: Job, chunk: Chunk) -> Result:
    """Write the signatures of a chunk's documents; the first pass of deduplication."""
    sources: list[str] = []

    def texts() -> Iterator[str]:
        for document in _clean(job, chunk, Counter(), []):
            sources.append(document.source)
            yield document.text

    signed = dedup.sign(texts(), job.settings.dedup)
    dedup.write_signatures(job.folder, part_name(chunk.unit, chunk.part), signed, sources)
    return _finish(job, chunk, Counter(documents=len(sources)), [], None, {})


def end_unit(job: Job, end: End) -> Result:
    """Record that all chunks of a unit were read, and where reading broke off."""
    if job.settings.keep_rejected:
        _keep(job.settings.keep_rejected, f"{part_name(end.unit, END)}.jsonl", list(end.damage))
    result = Result(
        fingerprint=job.fingerprint,
        unit=end.unit,
        parts=end.parts,
        drops=Counter(drop.reason for drop in end.damage),
        places=tuple(drop.text for drop in end.damage),
        bad_bytes=sum(drop.size for drop in end.damage),
    )
    return note(job.folder, result)


def _finish(
    job: Job,
    chunk: Chunk,
    counts: Counter[str],
    dropped: list[Drop],
    shard: ShardInfo | None,
    unknown: dict[str, int],
) -> Result:
    bad = [drop for drop in dropped if drop.size]
    result = Result(
        fingerprint=job.fingerprint,
        unit=chunk.unit,
        part=chunk.part,
        shard=shard,
        counts=counts,
        drops=Counter(drop.reason for drop in dropped),
        unknown=unknown,
        bytes=sum(block.size for block in chunk.blocks),
        disk=sum(block.disk for block in chunk.blocks),
        bad_bytes=sum(drop.size for drop in bad),
        places=tuple(f"{drop.source}: {drop.reason}" for drop in bad[:PLACES]),
    )
    return note(job.folder, result)


def _clean(job: Job, chunk: Chunk, counts: Counter[str], dropped: list[Drop]) -> Iterator[Document]:
    cleaner = Cleaner(job.settings.cleaning)
    for block in chunk.blocks:
        for document in documents(block, job.settings.text_field):
            if isinstance(document, Drop):
                dropped.append(document)
                continue
            cleaned = cleaner(document.text)
            if isinstance(cleaned, Drop):
                dropped.append(cleaned._replace(source=document.source))
            else:
                yield document._replace(text=cleaned)
    counts.update({f"changed_by_{name}": number for name, number in cleaner.changed.items()})


def _sentences(stream: Iterable[Document], job: Job, counts: Counter[str]) -> Sentences:
    """Documents to tokenized sentences, in blocks that table look-ups can work on at once."""
    ids, starts, lengths, per_document, numbers = [], [], [], [], []
    segmenter = load_segmenter(job.settings.segmenter, job.settings.user_dictionary)
    encoder = _encoder(job.vocab, job.settings.lowercase, job.tags["vocab_sha256"])
    unknown = _vocabulary(job.vocab, job.tags["vocab_sha256"])["[UNK]"]
    for texts, documents_of in _blocks(stream):
        text = "".join(texts)
        counts["documents"] += len(texts)
        counts["characters"] += len(text) - len(texts)
        ends: list[int] = []
        begin = 0
        for part in texts:
            found = sentence_ends(part, job.settings.sequence_length)
            ends.extend([begin + end for end in found])
            per_document.append(len(found))
            begin += len(part)
        boundaries = word_boundaries(text, segmenter)
        block_ids, block_starts, offsets = encoder.encode(text, boundaries, np.array(ends))
        ids.append(block_ids)
        starts.append(block_starts)
        lengths.append(np.diff(offsets))
        numbers.extend(documents_of)
    result = Sentences(
        ids=np.concatenate([np.zeros(0, np.int32), *ids]),
        word_starts=np.concatenate([np.zeros(0, np.bool_), *starts]),
        sentence_offsets=offsets_of(np.concatenate([np.zeros(0, np.int64), *lengths])),
        document_offsets=offsets_of(np.array(per_document, np.int64)),
        documents=np.array(numbers, np.uint64),
    )
    counts["tokens"] = len(result.ids)
    counts["words"] = int(result.word_starts.sum())
    counts["sentences"] = int(np.count_nonzero(np.diff(result.sentence_offsets)))
    counts["unknown_tokens"] = int(np.count_nonzero(result.ids == unknown))
    return result


def _blocks(stream: Iterable[Document]) -> Iterator[tuple[list[str], list[int]]]:
    """Texts and numbers of some documents at a time; every text ends its line."""
    texts: list[str] = []
    numbers: list[int] = []
    size = 0
    for document in stream:
        texts.append(document.text + "\n")
        numbers.append(document.number)
        size += len(document.text)
        if size > BLOCK_CHARACTERS:
            yield texts, numbers
            texts, numbers, size = [], [], 0
    if texts:
        yield texts, numbers


def _masks(job: Job, chunk: Chunk, samples: Pairs) -> Masks | None:
    if job.settings.masking.mode == "dynamic":
        return None
    vocabulary = _vocabulary(job.vocab, job.tags["vocab_sha256"])
    seed = int(key_of(job.seed, MASKS, chunk.unit, chunk.part))
    return masking.whole_word_masks(
        samples.input_ids,
        samples.word_starts,
        samples.offsets,
        masking.sample_keys(seed, 0, np.arange(len(samples.documents), dtype=np.uint64)),
        job.settings.masking,
        masking.Maskable(
            vocabulary["[MASK]"],
            len(vocabulary),
            tuple(vocabulary[token] for token in wordpiece.SPECIALS),
        ),
    )


def _keep(folder: str, name: str, dropped: list[Drop]) -> None:
    by_reason: dict[str, list[str]] = {}
    for drop in dropped:
        row = json.dumps({"source": drop.source, "text": drop.text}, ensure_ascii=False)
        by_reason.setdefault(drop.reason, []).append(row + "\n")
    for reason, rows in by_reason.items():
        data = "".join(rows).encode("utf-8", "backslashreplace")
        write_whole(f"{folder}/{reason}/{name}", data)


# A worker outlives a run, and the next run's vocabulary may have the same path: the hash tells.
@functools.lru_cache(maxsize=2)
def _vocabulary(path: str, sha256: str) -> dict[str, int]:
    return wordpiece.read_vocabulary(path)


@functools.lru_cache(maxsize=2)
def _encoder(path: str, lowercase: bool, sha256: str) -> Encoder:
    # A worker has one CPU; the tokenizer's own threads would fight for it.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    return Encoder(wordpiece.build_tokenizer(path, lowercase))
