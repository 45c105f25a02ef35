"""One chunk of text to one shard: clean, segment, encode, pair, mask, write. Runs in workers."""

from __future__ import annotations

import functools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from pipeline.config import CorpusSettings
from pipeline.corpus import dedup, masking, pairs, shards, wordpiece
from pipeline.corpus.cleaning import Cleaner
from pipeline.corpus.columns import key_of, offsets_of
from pipeline.corpus.reading import Chunk, End, documents, read_unit
from pipeline.corpus.records import Document, Drop, Pairs, Sentences
from pipeline.corpus.segmentation import load_segmenter, word_boundaries
from pipeline.corpus.sentences import sentence_ends
from pipeline.corpus.sources import Unit, shard_bytes
from pipeline.corpus.tokens import Encoder
from pipeline.errors import NezhaError

BLOCK_CHARACTERS = 1 << 18
"""Characters that are segmented and encoded at a time: small enough for the processor's cache."""
PLACES = 5
"""Unreadable places that a chunk names."""
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
    work: Callable[[Job, Chunk], dict[str, Any]]
    """Makes something of a chunk: `make_shard` or `sign_chunk`"""
    marks: str = ""
    """Folder of the marks of duplicates"""
    finished: frozenset[tuple[int, int]] = frozenset()
    """(unit, part) of chunks whose shards a run before this one committed"""


def run_unit(job: Job, unit: Unit) -> Iterator[dict[str, Any]]:
    """All chunks of a unit, then its end; an error that stops the run is a result as well."""
    try:
        for item in read_unit(
            unit, shard_bytes(job.settings), job.settings.encoding, job.settings.text_field
        ):
            if not isinstance(item, Chunk):
                yield end_unit(job, item)
            elif (item.unit, item.part) not in job.finished:
                yield job.work(job, item)
    except (NezhaError, OSError) as error:
        yield {"error": explain(error, job)}


def explain(error: Exception, job: Job) -> str:
    """An error in a worker, as the user should read it."""
    if isinstance(error, OSError):
        return (
            f"{error.filename or job.folder}: {error.strerror or error}; finished parts are kept: "
            "mend the cause and run again"
        )
    return str(error)


def make_shard(job: Job, chunk: Chunk) -> dict[str, Any]:
    """Make the shard of a chunk; what is returned is also written beside it, last.

    Returns:
        `unit`, `part`, `shard` (a ShardInfo as a dict, or None when nothing was left), `counts`,
        `drops` by reason, `bytes` read and `bad_bytes` among them.
    """
    settings = job.settings
    counts: Counter[str] = Counter()
    dropped: list[Drop] = []
    stream = _clean(job, chunk, counts, dropped)
    if job.marks:
        stream = dedup.without_duplicates(stream, job.marks, name_of(chunk), dropped)
    sentences = _sentences(stream, job, counts)
    seed = int(key_of(job.seed, PAIRS, chunk.unit, chunk.part))
    vocabulary = _vocabulary(job.vocab, job.tags["vocab_sha256"])
    samples = pairs.build_pairs(
        sentences,
        settings.pairs,
        settings.sequence_length,
        vocabulary["[CLS]"],
        vocabulary["[SEP]"],
        seed,
    )
    counts["truncated_tokens"] = pairs.truncated_tokens(sentences, samples, settings.pairs)
    counts["samples"] = len(samples.documents)
    info = None
    if len(samples.documents):
        name = f"shard-{name_of(chunk)}.arrow"
        info = shards.write_shard(
            f"{job.folder}/{name}", samples, _masks(job, chunk, samples), job.tags, len(vocabulary)
        )
    if settings.keep_rejected:
        _keep(settings.keep_rejected, f"{name_of(chunk)}.jsonl", dropped)
    return _commit(job, chunk, counts, dropped, info.model_dump() if info else None)


def sign_chunk(job: Job, chunk: Chunk) -> dict[str, Any]:
    """Write the signatures of a chunk's documents; the first pass of deduplication."""
    sources: list[str] = []

    def texts() -> Iterator[str]:
        for document in _clean(job, chunk, Counter(), []):
            sources.append(document.source)
            yield document.text

    signed = dedup.sign(texts(), job.settings.dedup)
    dedup.write_signatures(job.folder, name_of(chunk), signed, sources)
    return _commit(job, chunk, Counter(documents=len(sources)), [], None)


def name_of(chunk: Chunk) -> str:
    """`<unit>-<part>`, which sorts in the order of the inputs."""
    return f"{chunk.unit:06d}-{chunk.part:04d}"


def end_unit(job: Job, end: End) -> dict[str, Any]:
    """Record that all chunks of a unit were read, and where reading broke off."""
    if job.settings.keep_rejected:
        _keep(job.settings.keep_rejected, f"{end.unit:06d}.jsonl", list(end.damage))
    result = {
        "unit": end.unit,
        "parts": end.parts,
        "drops": dict(Counter(drop.reason for drop in end.damage)),
        "places": [drop.text for drop in end.damage],
        "bad_bytes": sum(drop.size for drop in end.damage),
    }
    return _write(job, f"{end.unit:06d}-end", result)


def _commit(
    job: Job, chunk: Chunk, counts: Counter[str], dropped: list[Drop], shard: dict | None
) -> dict[str, Any]:
    result = {
        "unit": chunk.unit,
        "part": chunk.part,
        "shard": shard,
        "counts": dict(counts),
        "drops": dict(Counter(drop.reason for drop in dropped)),
        "bytes": sum(block.size for block in chunk.blocks),
        "disk": sum(block.disk for block in chunk.blocks),
        "bad_bytes": sum(drop.size for drop in dropped),
        "places": [f"{drop.source}: {drop.reason}" for drop in dropped if drop.size][:PLACES],
    }
    return _write(job, name_of(chunk), result)


def _write(job: Job, name: str, result: dict[str, Any]) -> dict[str, Any]:
    """Note a result in the folder of finished work, from where a later run takes it."""
    result = {"fingerprint": job.fingerprint, **result}
    shards.write_whole(f"{job.folder}/_work/{name}.json", json.dumps(result).encode())
    return result


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


def _masks(job: Job, chunk: Chunk, samples: Pairs) -> Any:
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
        shards.write_whole(f"{folder}/{reason}/{name}", data)


# A worker outlives a run, and the next run's vocabulary may have the same path: the hash tells.
@functools.lru_cache(maxsize=2)
def _vocabulary(path: str, sha256: str) -> dict[str, int]:
    return wordpiece.read_vocabulary(path)


@functools.lru_cache(maxsize=2)
def _encoder(path: str, lowercase: bool, sha256: str) -> Encoder:
    # A worker has one CPU; the tokenizer's own threads would fight for it.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    return Encoder(wordpiece.build_tokenizer(path, lowercase))
