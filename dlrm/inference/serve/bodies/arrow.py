"""Rows as a stream of Arrow's IPC format.

Arrow itself checks that what a stream says of its buffers lies within it, and the columns that are used are validated in
full where they are read. Three things are looked at here: how many rows are announced, which columns of nulls need no
bytes for; whether buffers are compressed, since a few bytes would then become as much memory as they say; and types that a
full validation does not make safe (pyarrow 26.0.1 crashes when a string_view whose null slots hold nonsense is cast).
"""

from __future__ import annotations

import struct

import pyarrow as pa

from dlrm.inference.features import Features
from dlrm.inference.raw import Preprocessing
from dlrm.inference.serve.bodies.rows import check_rows
from dlrm.inference.serve.refusal import Refusal

_HINT = "send a stream of pyarrow.ipc.new_stream, without compression"
_MOST_MESSAGES = 10_000
# Format/Message.fbs and Format/Schema.fbs of Apache Arrow: places of fields in their tables.
_MESSAGE_HEADER_TYPE, _MESSAGE_HEADER = 1, 2
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3
_DICTIONARY_DATA = 1
_BATCH_COMPRESSION = 3


def arrow_features(body: bytes, preprocessing: Preprocessing, most_rows: int) -> Features:
    """See :data:`dlrm.inference.serve.bodies.Parse`."""
    try:
        _refuse_compression(body)
        with pa.ipc.open_stream(pa.py_buffer(body)) as reader:
            batches, rows = [], 0
            for batch in reader:
                rows += batch.num_rows
                check_rows(rows or 1, most_rows)
                batches.append(batch)
            table = pa.Table.from_batches(batches, reader.schema)
            _ = table.column_names  # which may be no UTF-8
    except (pa.ArrowException, OSError, struct.error, ValueError, TypeError, KeyError, EOFError) as error:
        text = str(error).partition("\n")[0][:100]
        problem = f"the body is no whole Arrow stream ({type(error).__name__}: {text})"
        raise Refusal(400, "bad_request", problem, hint=_HINT) from None
    check_rows(rows, most_rows)
    for column in preprocessing.columns:
        for place in table.schema.get_all_field_indices(column.name):
            if not _is_safe(table.schema.types[place]):
                problem = f"is of type {str(table.schema.types[place])[:60]!a}"
                hint = "send numbers, utf8 text or lists of ids (of polars: compat_level=CompatLevel.oldest())"
                raise Refusal(422, "bad_rows", problem, column=column.name, hint=hint)
    return preprocessing.from_arrow(table)


def _is_safe(kind: pa.DataType) -> bool:
    """Whether a column of this type, once validated, can be worked with."""
    types = pa.types
    if types.is_dictionary(kind) or types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inner = kind.value_type
        return not types.is_nested(inner) and not types.is_dictionary(inner) and _is_safe(inner)
    texts = types.is_string(kind) or types.is_large_string(kind) or types.is_binary(kind) or types.is_large_binary(kind)
    return bool(texts or types.is_primitive(kind) or types.is_null(kind) or types.is_decimal(kind))


def _refuse_compression(body: bytes) -> None:
    """See that no message has compressed buffers, before anything is made of them."""
    source = pa.BufferReader(pa.py_buffer(body))
    for _ in range(_MOST_MESSAGES):
        if source.tell() >= len(body):
            return
        try:
            message = pa.ipc.read_message(source)
        except EOFError:  # the end of the stream is written as a message of no length
            if after := len(body) - source.tell():  # rows of a second stream would be dropped without a word
                raise ValueError(f"{after} bytes follow the end of the stream") from None
            return
        if message.type in ("record batch", "dictionary") and _is_compressed(message.metadata.to_pybytes()):
            raise Refusal(415, "media_type", "the Arrow stream has compressed buffers", hint=_HINT)
    raise Refusal(413, "too_large", f"the Arrow stream has more than {_MOST_MESSAGES} messages", hint="join batches")


def _is_compressed(metadata: bytes) -> bool:
    """Whether a message is a batch, or a dictionary's, with a field ``compression``.

    Raises:
        struct.error: it points out of itself.
    """
    root = struct.unpack_from("<I", metadata, 0)[0]
    (kind,) = struct.unpack_from("<B", metadata, _field(metadata, root, _MESSAGE_HEADER_TYPE))
    batch = _table(metadata, root, _MESSAGE_HEADER)
    if kind == _DICTIONARY_BATCH:
        batch = _table(metadata, batch, _DICTIONARY_DATA)
    elif kind != _RECORD_BATCH:
        return False
    return bool(_field(metadata, batch, _BATCH_COMPRESSION))


def _field(metadata: bytes, table: int, number: int) -> int:
    """Where a field of a flatbuffer's table lies; 0: it is not there."""
    vtable = table - struct.unpack_from("<i", metadata, table)[0]
    if vtable < 0:
        raise struct.error("a table points out of its message")
    size = struct.unpack_from("<H", metadata, vtable)[0]
    place = 4 + 2 * number
    offset: int = struct.unpack_from("<H", metadata, vtable + place)[0] if place + 2 <= size else 0
    return table + offset if offset else 0


def _table(metadata: bytes, table: int, number: int) -> int:
    """Where the table that a field holds lies."""
    field = _field(metadata, table, number)
    if not field:
        raise struct.error("a message has no header")
    at: int = field + struct.unpack_from("<I", metadata, field)[0]
    return at
