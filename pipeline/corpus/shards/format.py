"""The files of a corpus folder: shards, which are Arrow IPC files of samples, and the manifest."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.corpus.records import Masks, Pairs
from pipeline.corpus.samples.masks import Maskable, no_masks
from pipeline.corpus.samples.vocabulary import SPECIALS
from pipeline.errors import ShardError
from pipeline.files.storage import filesystem, read_whole, write_whole

SCHEMA_VERSION = 2
"""To be raised when shards or manifests change, or when a seed gives other masks or another order.
It is in the fingerprint of a run, as `planning.FORMAT` is in that of a corpus."""
MANIFEST = "manifest.json"
SHOWN = 5
"""How many shards with the same fault are named."""


class ShardInfo(BaseModel):
    """The manifest's entry for one shard."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    rows: int
    tokens: int
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What a corpus holds and how it was made. A folder without one is not a finished corpus."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    schema_version: int = SCHEMA_VERSION
    shards: tuple[ShardInfo, ...]
    vocab_sha256: str
    vocab_size: int
    special_ids: dict[str, int]
    """Ids of `[PAD]`, `[UNK]`, `[CLS]`, `[SEP]`, `[MASK]`, which masking leaves alone."""
    sequence_length: int
    masks: Literal["static", "none"]
    """Whether the shards hold masks."""
    segmenter: str = ""
    """Its name, version and dictionary."""
    counts: dict[str, int] = {}
    """Documents, sentences, characters, truncated tokens …"""
    drops: dict[str, int] = {}
    """Dropped documents and lines, by reason."""
    dropped: dict[str, list[str]] = {}
    """The first of them, by reason: the place and the beginning of the text."""
    boilerplate: tuple[tuple[str, int], ...] = ()
    """Removed lines of the most documents, with their numbers of documents."""
    left_out: dict[str, list[str]] = {}
    """Files under the inputs that were not read, by reason."""
    shares: dict[str, float] = {}
    """Shares of [UNK], of random pairs, of masked tokens …, see `run.alarms`."""
    mask_rates: dict[str, float] = {}
    """Share of the words that are masked, by their number of tokens."""
    warnings: tuple[str, ...] = ()
    """What is unusual in these shares and rates, as sentences."""
    unknown: dict[str, int] = {}
    """The most frequent characters that became [UNK], with their numbers."""
    settings: dict[str, Any] = {}
    """The corpus settings."""
    fingerprint: str = ""
    """Hash of inputs and settings; if it is still the same, there is nothing to do."""
    units: int = 0
    """Work units; they are in the names of the shards."""

    @property
    def rows(self) -> int:
        """Samples in all shards."""
        return sum(shard.rows for shard in self.shards)

    @property
    def tokens(self) -> int:
        """Tokens of all samples."""
        return sum(shard.tokens for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Size of all shards."""
        return sum(shard.bytes for shard in self.shards)

    @property
    def maskable(self) -> Maskable:
        """What masking needs to know about the vocabulary."""
        special = tuple(sorted(self.special_ids.values()))
        return Maskable(self.special_ids["[MASK]"], self.vocab_size, special)

    @property
    def content_sha256(self) -> str:
        """Hash of the content of all shards in order; it does not depend on where they are."""
        listing = [(shard.name, shard.rows, shard.sha256) for shard in self.shards]
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def shard_schema(vocab_size: int, metadata: Mapping[str, str]) -> pa.Schema:
    """The Arrow schema of a shard; an id takes two bytes if the vocabulary allows, else four."""
    ids = pa.uint16() if vocab_size <= 2**16 else pa.uint32()

    def list_of(kind: pa.DataType) -> pa.DataType:
        return pa.list_(pa.field("item", kind, nullable=False))

    columns = {
        "input_ids": list_of(ids),
        "segment_b_start": pa.uint16(),
        "word_starts": list_of(pa.bool_()),
        "masked_positions": list_of(pa.uint16()),
        "masked_ids": list_of(ids),
        "next_sentence_label": pa.uint8(),
        "document": pa.uint64(),
    }
    fields = [pa.field(name, kind, nullable=False) for name, kind in columns.items()]
    tags = {**metadata, "schema_version": str(SCHEMA_VERSION), "vocab_size": str(vocab_size)}
    return pa.schema(fields, metadata=dict(sorted(tags.items())))


def write_shard(
    path: str | Path,
    pairs: Pairs,
    masks: Masks | None,
    metadata: Mapping[str, str],
    vocab_size: int,
) -> ShardInfo:
    """Write samples as one Arrow IPC file with one record batch, completely or not at all.

    The same arguments give the same bytes. Without masks, the lists in the two mask columns are
    empty.

    Args:
        path: path or fsspec URL; its last component is the shard's name.

    Raises:
        ShardError: ids are outside the vocabulary, or there are 2^31 tokens or more.
    """
    rows, tokens = len(pairs.offsets) - 1, len(pairs.input_ids)
    if tokens >= 2**31:
        raise ShardError(
            f"{path}: {tokens} tokens do not fit into one shard; lower corpus.shard_megabytes"
        )
    if tokens and not 0 <= pairs.input_ids.min() <= pairs.input_ids.max() < vocab_size:
        raise ShardError(f"{path}: ids outside the vocabulary of {vocab_size}")
    masks = masks or no_masks(rows)
    schema = shard_schema(vocab_size, metadata)
    values: dict[str, tuple[np.ndarray, np.ndarray | None]] = {
        "input_ids": (pairs.input_ids, pairs.offsets),
        "segment_b_start": (pairs.segment_b_start, None),
        "word_starts": (pairs.word_starts, pairs.offsets),
        "masked_positions": (masks.positions, masks.offsets),
        "masked_ids": (masks.ids, masks.offsets),
        "next_sentence_label": (pairs.next_sentence_label, None),
        "document": (pairs.documents, None),
    }
    arrays = [_arrow(*values[field.name], field.type) for field in schema]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
    data = sink.getvalue()
    write_whole(path, data)
    return ShardInfo(
        name=str(path).rpartition("/")[2],
        rows=rows,
        tokens=tokens,
        bytes=data.size,
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _arrow(values: np.ndarray, offsets: np.ndarray | None, kind: pa.DataType) -> pa.Array:
    if offsets is None:
        return pa.array(values.astype(kind.to_pandas_dtype(), copy=False))
    flat = pa.array(values.astype(kind.value_type.to_pandas_dtype(), copy=False))
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), flat, type=kind)


def write_manifest(folder: str | Path, manifest: Manifest) -> None:
    """Write `manifest.json`, after all shards: it makes the folder a finished corpus."""
    text = json.dumps(manifest.model_dump(mode="json"), ensure_ascii=False, indent=1)
    write_whole(_manifest_path(folder), (text + "\n").encode())


def is_corpus(folder: str | Path) -> bool:
    """Whether a folder, a path or a URL, holds a manifest, as only a finished corpus does."""
    system, inner = filesystem(_manifest_path(folder))
    return bool(system.exists(inner))


def _faults(manifest: Manifest) -> Iterator[str]:
    """The contradictions in a manifest, because of which its shards can't be read."""
    names = Counter(info.name for info in manifest.shards)
    if again := [name for name, count in names.items() if count > 1]:
        yield f"shards are listed more than once: {', '.join(again[:SHOWN])}"
    if missing := [token for token in SPECIALS if token not in manifest.special_ids]:
        yield f"special_ids has no {', '.join(missing)}"
    outside = [id for id in manifest.special_ids.values() if not 0 <= id < manifest.vocab_size]
    if outside:
        yield f"special_ids {outside} are outside of a vocabulary of {manifest.vocab_size}"


def read_manifest(folder: str | Path) -> Manifest:
    """Read a corpus folder's manifest.

    Raises:
        ShardError: there is none, it can't be read, is damaged, or has another schema version.
    """
    path = _manifest_path(folder)
    try:
        values = json.loads(read_whole(path))
        version = values["schema_version"]
        if version == SCHEMA_VERSION:
            manifest = Manifest.model_validate(values)
            if faults := list(_faults(manifest)):
                raise ValueError("; ".join(faults))
            return manifest
    except FileNotFoundError:
        raise ShardError(
            f"{folder}: no {MANIFEST}, so this is not a finished corpus; run jobs.prepare, which "
            "goes on where it was interrupted"
        ) from None
    except (NotADirectoryError, IsADirectoryError, PermissionError) as error:
        raise ShardError(
            f"{path}: {error.strerror}; name the folder of a corpus that jobs.prepare made"
        ) from None
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise ShardError(f"{path}: damaged ({error}); run jobs.prepare again") from None
    raise ShardError(
        f"{path}: schema version {version}, this program reads {SCHEMA_VERSION}; "
        "run jobs.prepare again, or use the program that wrote it"
    )


def _manifest_path(folder: str | Path) -> str:
    return f"{str(folder).rstrip('/')}/{MANIFEST}"
