"""One shard file: mapping it, and comparing it with the manifest."""

import hashlib
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from pipeline.corpus.shards.format import SCHEMA_VERSION, Manifest, ShardInfo, shard_schema
from pipeline.errors import ShardError

_LISTS = ("input_ids", "word_starts", "masked_positions", "masked_ids")
_SCALARS = ("segment_b_start", "next_sentence_label", "document")
COLUMNS = (*_LISTS, *(f"{name} offsets" for name in _LISTS), *_SCALARS)
"""The columns whose addresses `map_shard` returns."""


def check_bytes(path: Path | str, data: bytes, info: ShardInfo) -> None:
    """Compare the bytes of a shard with the manifest, at about 1.3 GB a second.

    Raises:
        ShardError: their number or their SHA-256 is another one.
    """
    if len(data) != info.bytes:
        raise ShardError(f"{path}: {len(data)} bytes, the manifest says {info.bytes}")
    if hashlib.sha256(data).hexdigest() != info.sha256:
        raise ShardError(f"{path}: its SHA-256 is not the manifest's: it was changed or is damaged")


def check_size(path: Path, info: ShardInfo) -> None:
    """Refuse a mapped file that was cut: to read it would end the process (SIGBUS).

    A file that was deleted stays readable where it is mapped.
    """
    with suppress(FileNotFoundError):
        size = path.stat().st_size
        if size < info.bytes:
            raise _unusable(path, f"was cut to {size} of {info.bytes} bytes while it was read")


def map_shard(
    path: Path, info: ShardInfo, manifest: Manifest, longest: int
) -> tuple[pa.Buffer, list[int], tuple[int, int]]:
    """Map a shard, so that its rows can be read by address.

    Args:
        longest: tokens of the widest window that rows are read in.

    Returns:
        The buffer that keeps it mapped, the addresses of `COLUMNS`, and how many ids and masked ids
        it holds.

    Raises:
        ShardError: it is missing, has another size, or see `open_batch`.
    """
    try:
        size = path.stat().st_size
        if size != info.bytes:
            raise _unusable(path, f"{size} bytes, the manifest says {info.bytes}")
        whole = pa.memory_map(str(path)).read_buffer()
    except FileNotFoundError:
        raise _unusable(path, "listed in the manifest but missing") from None
    batch = open_batch(path, whole, info, manifest)
    slack = 4 * (longest + 8)
    lists = [_values(batch, name) or whole.slice(0, 0) for name in _LISTS]
    if any(each.address + each.size + slack > whole.address + size for each in lists):
        # Rows are read in windows of one width, so there must be room after the last row.
        whole = pa.py_buffer(whole.to_pybytes() + bytes(slack))
        batch = open_batch(path, whole.slice(0, size), info, manifest)
    buffers = [
        *(_values(batch, name) for name in _LISTS),
        *(batch.column(name).buffers()[1] for name in (*_LISTS, *_SCALARS)),
    ]
    sizes = len(batch.column("input_ids").values), len(batch.column("masked_positions").values)
    # Of a column without values too, an address in the file: its empty rows are read as windows.
    return whole, [(buffer or whole).address for buffer in buffers], sizes


def open_batch(
    path: Path | str, buffer: pa.Buffer, info: ShardInfo, manifest: Manifest
) -> pa.RecordBatch:
    """The record batch in the bytes of a shard.

    Raises:
        ShardError: it can't be read, or schema, rows or vocabulary are not those of the manifest.
    """
    try:
        reader = pa.ipc.open_file(buffer)
        batch = reader.get_batch(0)
    except (pa.ArrowInvalid, OSError, IndexError) as error:
        raise _unusable(path, f"not a readable shard ({error})") from None
    tags = {key.decode(): value.decode() for key, value in (reader.schema.metadata or {}).items()}
    if tags.get("schema_version") != str(SCHEMA_VERSION):
        version = tags.get("schema_version")
        raise _unusable(path, f"schema version {version}, this program reads {SCHEMA_VERSION}")
    if not reader.schema.equals(shard_schema(manifest.vocab_size, {})):
        raise _unusable(path, "columns differ from the schema")
    if tags.get("vocab_sha256", manifest.vocab_sha256) != manifest.vocab_sha256:
        raise _unusable(path, "made with another vocabulary than the manifest says")
    size = tags.get("vocab_size", str(manifest.vocab_size))
    if size != str(manifest.vocab_size):
        raise _unusable(
            path,
            f"made with a vocabulary of {size} entries, the manifest says {manifest.vocab_size}",
        )
    found = (reader.num_record_batches, batch.num_rows, len(batch["input_ids"].values))
    listed = (1, info.rows, info.tokens)
    if found != listed:
        raise _unusable(path, f"(batches, rows, tokens) are {found}, by the manifest {listed}")
    return batch


def _values(batch: pa.RecordBatch, name: str) -> pa.Buffer | None:
    return batch.column(name).buffers()[3]


def _unusable(path: Path | str, why: str) -> ShardError:
    return ShardError(f"{path}: {why}; run jobs.prepare again")
