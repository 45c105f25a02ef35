"""Shards, samples as Arrow IPC files, and the manifest that makes a folder of them a corpus."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.corpus.records import Masks, Pairs
from pipeline.corpus.samples.masks import Maskable
from pipeline.errors import ShardError
from pipeline.storage import read_whole, write_whole

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"


class ShardInfo(BaseModel):
    """One shard, as the manifest lists it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    rows: int
    tokens: int
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What a corpus holds and how it was made. Written last: a folder without one is no corpus."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    schema_version: int = SCHEMA_VERSION
    shards: tuple[ShardInfo, ...]
    vocab_sha256: str
    vocab_size: int
    special_ids: dict[str, int]
    """`[PAD]`, `[UNK]`, `[CLS]`, `[SEP]`, `[MASK]`: what is never masked nor drawn."""
    sequence_length: int
    masks: Literal["static", "none"]
    """Whether the mask columns are filled."""
    segmenter: str = ""
    """Name, version and dictionary."""
    counts: dict[str, int] = {}
    """Documents, sentences, characters, truncated tokens …"""
    drops: dict[str, int] = {}
    """Dropped documents and lines, by reason."""
    unknown: dict[str, int] = {}
    """The most frequent characters that became [UNK]."""
    settings: dict[str, Any] = {}
    """The settings that made it."""
    fingerprint: str = ""
    """Of inputs and settings; a rerun that finds the same one has nothing to do."""

    @property
    def rows(self) -> int:
        """Samples in all shards."""
        return sum(shard.rows for shard in self.shards)

    @property
    def maskable(self) -> Maskable:
        """What masking must know of the vocabulary."""
        special = tuple(sorted(self.special_ids.values()))
        return Maskable(self.special_ids["[MASK]"], self.vocab_size, special)

    @property
    def content_sha256(self) -> str:
        """Hash of what the shards hold, in their order, wherever they lie."""
        listing = [(shard.name, shard.rows, shard.sha256) for shard in self.shards]
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def shard_schema(vocab_size: int, metadata: Mapping[str, str]) -> pa.Schema:
    """The Arrow schema of a shard; ids take two bytes where the vocabulary allows."""
    ids = pa.uint16() if vocab_size <= 2**16 else pa.uint32()

    def many(kind: pa.DataType) -> pa.DataType:
        return pa.list_(pa.field("item", kind, nullable=False))

    columns = {
        "input_ids": many(ids),
        "segment_b_start": pa.uint16(),
        "word_starts": many(pa.bool_()),
        "masked_positions": many(pa.uint16()),
        "masked_ids": many(ids),
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
    """Write samples as one Arrow IPC file of one record batch, all or nothing.

    The same arguments give the same bytes. `path` may lie on any fsspec file system; its last part
    is the shard's name. Without masks the two mask columns are empty lists.

    Raises:
        ShardError: ids do not fit the vocabulary, or there are 2^31 tokens or more.
    """
    rows, tokens = len(pairs.offsets) - 1, len(pairs.input_ids)
    if tokens >= 2**31:
        raise ShardError(f"{path}: {tokens} tokens do not fit one shard; make the work units less")
    if tokens and not 0 <= pairs.input_ids.min() <= pairs.input_ids.max() < vocab_size:
        raise ShardError(f"{path}: ids outside the vocabulary of {vocab_size}")
    if masks is None:
        masks = Masks(np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(rows + 1, np.int64))
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
    write_whole(str(path), data)
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
    """Write `manifest.json`, which makes the folder a corpus: after all of its shards."""
    text = json.dumps(manifest.model_dump(mode="json"), ensure_ascii=False, indent=1)
    write_whole(f"{str(folder).rstrip('/')}/{MANIFEST}", (text + "\n").encode())


def read_manifest(folder: str | Path) -> Manifest:
    """Read a corpus folder's manifest.

    Raises:
        ShardError: there is none, or it is damaged or of another schema version.
    """
    path = f"{str(folder).rstrip('/')}/{MANIFEST}"
    try:
        values = json.loads(read_whole(path))
        version = values["schema_version"]
        if version == SCHEMA_VERSION:
            return Manifest.model_validate(values)
    except FileNotFoundError:
        raise ShardError(
            f"{folder}: no {MANIFEST}, so this is not a finished corpus; run jobs.prepare (again: "
            "it goes on where it stopped)"
        ) from None
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise ShardError(f"{path}: damaged ({error}); run jobs.prepare again") from None
    raise ShardError(
        f"{path}: schema version {version}, this program reads {SCHEMA_VERSION}; "
        "run jobs.prepare again, or the program that wrote it"
    )
