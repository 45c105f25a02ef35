"""Read the tensors of a TensorFlow checkpoint (TensorBundle, "V2") without TensorFlow.

A checkpoint X is X.index, a LevelDB table of protocol-buffer entries, and raw data in
X.data-00000-of-00001 and so on. Format: tensorflow/core/util/tensor_bundle/tensor_bundle.h,
tensorflow/core/protobuf/tensor_bundle.proto and leveldb's doc/table_format.md.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

TABLE_MAGIC = 0xDB4775248B80FB57
FOOTER_BYTES = 48
DTYPES = {
    1: torch.float32,
    2: torch.float64,
    3: torch.int32,
    9: torch.int64,
    14: torch.bfloat16,
    19: torch.float16,
}


def read_checkpoint(prefix: Path) -> dict[str, Tensor]:
    """All tensors by variable name; `prefix` is the path without `.index`.

    Raises ValueError if the files are damaged or use a feature that this reader does not know.
    """
    index = prefix.with_name(prefix.name + ".index").read_bytes()
    try:
        entries = dict(_table(index))
        shards = int(_fields(entries.pop(b"")).get(1, 1))
    except (IndexError, KeyError, struct.error, UnicodeDecodeError) as error:
        raise ValueError(f"{prefix}.index is damaged: {error!r}") from error
    names = [f"{prefix.name}.data-{shard:05d}-of-{shards:05d}" for shard in range(shards)]
    data = [prefix.with_name(name).read_bytes() for name in names]
    return {key.decode(): _tensor(key.decode(), value, data) for key, value in entries.items()}


def _tensor(name: str, entry: bytes, data: list[bytes]) -> Tensor:
    """Decode a BundleEntryProto: 1 dtype, 2 shape, 3 shard, 4 offset, 5 size, 7 slices."""
    fields = _fields(entry)
    dtype = DTYPES.get(int(fields.get(1, 0)))
    if dtype is None or 7 in fields:
        raise ValueError(
            f"{name}: this reader knows neither its data type nor partitioned variables"
        )
    shape = [int(_fields(dim).get(1, 0)) for dim in _repeated(fields.get(2, b""), 2)]
    offset, size = int(fields.get(4, 0)), int(fields.get(5, 0))
    raw = data[int(fields.get(3, 0))][offset : offset + size]
    count = torch.Size(shape).numel()
    if len(raw) != size or size != count * dtype.itemsize:
        raise ValueError(f"{name}: {len(raw)} bytes where shape {shape} needs {size}; truncated?")
    # frombuffer refuses an empty buffer and needs a writable one.
    flat = torch.frombuffer(bytearray(raw), dtype=dtype) if raw else torch.empty(0, dtype=dtype)
    return flat.reshape(shape)


def _table(file: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of every row of a LevelDB table."""
    footer = file[-FOOTER_BYTES:]
    if len(footer) < FOOTER_BYTES or struct.unpack("<Q", footer[-8:])[0] != TABLE_MAGIC:
        raise ValueError("not a TensorFlow checkpoint index, or cut short")
    # Two handles; each is the offset and the size of a block
    _, _, offset, size, _ = _varints(footer, 0, 4)
    for _, handle in _block(file, offset, size):
        yield from _block(file, *_varints(handle, 0, 2)[:2])


def _block(file: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Rows of a block; a key shares its first `shared` bytes with the previous key."""
    if file[offset + size]:
        raise ValueError("the checkpoint index is compressed, which TensorFlow never does")
    block = file[offset : offset + size]
    (restarts,) = struct.unpack("<I", block[-4:])
    at, end, key = 0, size - 4 - 4 * restarts, b""
    while at < end:
        shared, added, length, at = _varints(block, at, 3)
        key = key[:shared] + block[at : at + added]
        yield key, block[at + added : at + added + length]
        at += added + length


def _varints(buffer: bytes, at: int, count: int) -> list[int]:
    """`count` numbers, and the place of the byte after them."""
    found = []
    for _ in range(count):
        value, at = _varint(buffer, at)
        found.append(value)
    return [*found, at]


def _varint(buffer: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = buffer[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _fields(message: bytes) -> dict:
    """Field number → last value of a protocol-buffer message."""
    return dict(_wire(message))


def _repeated(message: bytes, number: int) -> list[bytes]:
    return [value for field, value in _wire(message) if field == number]


def _wire(message: bytes) -> Iterator[tuple[int, Any]]:
    value: Any
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(message, at)
        else:
            length, at = _varint(message, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
            value, at = message[at : at + length], at + length
        yield tag >> 3, value
