"""The text column of Parquet and Arrow files, and how the column is found in any table.

A value that is no text stays what it is, so that the parser can drop it with its place: bytes were
not decodable, any other object is not a string.
"""

from collections.abc import Iterator, Sequence
from typing import IO, Any

import pyarrow as pa
import pyarrow.ipc
from pyarrow import compute

from pipeline.corpus.decoding.transcoding import decode
from pipeline.errors import CorpusError

SHOWN_NAMES = 1000
"""Characters of the names of columns that a message shows."""
ARROW_FILE = b"ARROW1"
"""The first bytes of Arrow's file format."""


def column_of(names: Sequence[str], text_field: str, label: str) -> int:
    """Number of the text column.

    Raises:
        CorpusError: there is none, or there are several.
    """
    if names.count(text_field) > 1:
        raise CorpusError(
            f"{label}: {names.count(text_field)} columns have the name {text_field!r}, which "
            "corpus.text_field names; rename all but one of them"
        )
    if text_field not in names:
        shown = ", ".join(names)[:SHOWN_NAMES]
        raise CorpusError(
            f"{label}: no column {text_field!r}; set corpus.text_field to one of {shown}"
        )
    return list(names).index(text_field)


def check_column(schema: pa.Schema, text_field: str, label: str) -> None:
    """Raise CorpusError unless the text column, or the field of a struct, is there once."""
    if len(_path(schema, text_field)) < 2:
        names = [inner.name for outer in schema for inner in outer.flatten()]
        column_of(names if text_field not in schema.names else schema.names, text_field, label)


def text_column(batch: pa.RecordBatch, text_field: str) -> pa.Array:
    """The text column, which is there; of `a.b`, the field `b` of the struct `a`."""
    outer, *inner = _path(batch.schema, text_field)
    column = batch.column(outer)
    for name in inner:
        column = compute.struct_field(column, name)
    return column


def _path(fields: pa.Schema | pa.StructType, name: str) -> list[str]:
    """Names from a column to what `name` stands for, as `value_at` of JSON; empty if nothing."""
    if name in fields.names:
        return [name]
    outer, _, inner = name.partition(".")
    if fields.names.count(outer) != 1 or not pa.types.is_struct(fields.field(outer).type):
        return []
    path = _path(fields.field(outer).type, inner)
    return [outer, *path] if path else []


def arrow_batches(file: IO[bytes]) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Schema and record batches of a file in Arrow's file format, which Feather is, or its stream.

    Raises:
        pa.ArrowException: it is damaged; also while the batches are read.
    """
    magic = file.read(len(ARROW_FILE))
    file.seek(0)
    if magic != ARROW_FILE:
        stream = pa.ipc.open_stream(file)
        return stream.schema, iter(stream)
    whole = pa.ipc.open_file(file)
    return whole.schema, map(whole.get_batch, range(whole.num_record_batches))


def plain(column: pa.Array) -> pa.Array:
    """The column with a value in each row, where it was numbers of values.

    Raises:
        pa.ArrowInvalid: it is damaged; Arrow would read any memory as its values, or crash.
    """
    try:
        column.validate(full=True)
    except pa.ArrowInvalid as error:
        if "Invalid UTF8" not in str(error):  # which is told after all else, and is one row's fault
            raise
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def column_values(column: pa.Array, codec: str) -> tuple[Any, ...]:
    """Values of a plain column of strings, of lists of strings, or of their bytes in a codec."""
    try:
        values = column.to_pylist()
    except UnicodeDecodeError:  # Arrow does not check its strings, which are UTF-8
        values, codec = [_or_bytes(value) for value in column], "utf-8"
    return tuple(_decoded(value, codec) for value in values)


def _or_bytes(value: pa.Scalar) -> Any:
    """A value, or the bytes of a string in it that is not UTF-8."""
    try:
        return value.as_py()
    except UnicodeDecodeError as error:
        return error.object


def _decoded(value: Any, codec: str) -> Any:
    """Bytes as text, if they are; a list of which one item is not text becomes that item."""
    if isinstance(value, list):
        items = [_decoded(item, codec) for item in value]
        return next((item for item in items if isinstance(item, bytes)), items)
    if isinstance(value, bytes):
        try:
            return decode(value, codec)
        except UnicodeDecodeError:
            return value
    return value
